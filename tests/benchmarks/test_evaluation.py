"""The benchmark of COCO evaluation."""

import json
import sys

import pytest

from benchmarks import evaluation
from benchmarks.tables.evaluation import evaluation_of
from htc_fast.errors import UserError


def test_two_packages_on_a_few_pictures(tmp_path, monkeypatch, capsys):
    words = ["--pictures", "12", "--repeats", "1", "--packages", "htc_fast", "pycocotools", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["evaluation", *words])
    assert evaluation.main() == 0 and "package pycocotools, kind segm" in capsys.readouterr().out
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert [row["equal"] for row in result["rows"]] == [True] * 4
    assert all(0.05 < row["stats"][0] < 0.9 and row["seconds"] > 0 for row in result["rows"])
    text = evaluation_of(result)
    assert "12 pictures × 100 detections, 80 classes, 2 threads" in text and text.count("to the last bit") >= 1


def test_what_fails_is_said(tmp_path):
    with pytest.raises(UserError, match=r"pycocotools failed: .*truth.json"):
        evaluation.apart("pycocotools", "bbox", str(tmp_path), 1)
