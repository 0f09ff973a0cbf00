"""`python -m htc_fast.evaluate`: tables, files, stages, and errors in one line."""

import json
from dataclasses import replace

import pytest

from htc_fast import evaluate as command
from htc_fast.commands import entry, network
from tests.data.builder import CATEGORIES, image, write
from tests.inference.fake import Fake


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setattr(network, "load", lambda *_, **__: Fake())

    def run(*arguments):
        given = [*map(str, arguments), "--weights", "w", "--image-size", "64", "--device", "cpu"]
        monkeypatch.setattr("sys.argv", ["evaluate", *given])
        with pytest.raises(SystemExit) as end:
            entry.run(command.main)
        return end.value.code, *capsys.readouterr()

    return run


def test_tables_and_files(tmp_path, run):
    status, out, _ = run("--data", write(tmp_path / "data"), "--out", tmp_path / "out")
    lines = [line.split() for line in out.splitlines() if line]
    assert status == 0 and lines[0] == ["ensemble,", "2", "pictures"]
    assert lines[1] == ["AP", "AP50", "AP75", "AP", "small", "AP", "medium", "AP", "large"]
    assert lines[2][0] == "box" and lines[3][0] == "mask" and lines[3][-1] == "-"
    assert {line[0] for line in lines[5:]} == {"dog", "cat", "owl"}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["ensemble"]
    assert metrics["pictures"] == 2 and set(metrics["per_class"]) == {"dog", "cat", "owl"}
    boxes = json.loads((tmp_path / "out" / "results.bbox.json").read_text())
    masks = json.loads((tmp_path / "out" / "results.segm.json").read_text())
    assert len(boxes) == len(masks) == 4 and {item["image_id"] for item in masks} == {10, 11}
    assert "segmentation" not in boxes[0] and "bbox" not in masks[0] and boxes[0]["category_id"] == 7


def test_every_stage(tmp_path, run):
    status, out, _ = run("--data", write(tmp_path / "data"), "--out", tmp_path / "out", "--stage", "all", "--box-areas")
    assert (
        status == 0 and [out.count(f"stage {t}, 2 pictures") for t in (1, 2, 3)] == [1, 1, 1] and "ensemble, 2" in out
    )
    assert len(list((tmp_path / "out").glob("results.stage*.json"))) == 6
    assert len(json.loads((tmp_path / "out" / "metrics.json").read_text())) == 4


def test_without_annotations_only_results(tmp_path, run):
    root = write(tmp_path / "data", {"images": [image(5)], "categories": CATEGORIES})
    annotations = root / "annotations" / "instances_val2017.json"
    status, out, _ = run("--annotations", annotations, "--out", tmp_path / "out", "--score", "0.5")
    assert status == 0 and "no annotations" in out
    assert len(json.loads((tmp_path / "out" / "results.segm.json").read_text())) == 1


def test_classes_are_matched_by_name(tmp_path, monkeypatch, capsys):
    model = Fake(2)
    model.config = replace(model.config, class_names=("owl", "dog"))
    monkeypatch.setattr(network, "load", lambda *_, **__: model)
    given = ["--weights", "w", "--data", str(write(tmp_path / "data")), "--image-size", "64", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["evaluate", *given])
    with pytest.raises(SystemExit) as end:
        entry.run(command.main)
    assert end.value.code == 0 and "cat" not in capsys.readouterr().out
    results = json.loads((tmp_path / "results.bbox.json").read_text())
    assert [item["category_id"] for item in results[:2]] == [3, 90]


ERRORS = {
    "no data": ([], "needs its root folder"),
    "no such folder": (["--data", "{root}/no"], "is missing"),
    "no such split": (["--data", "{root}", "--split", "test"], "no annotation file for split 'test'"),
    "device": (["--data", "{root}", "--device", "cuda:77"], "cannot be used"),
    "device name": (["--data", "{root}", "--device", "gpu"], "cannot be used"),
    "batch size": (["--data", "{root}", "--batch-size", "0"], "at least 1"),
    "stage": (["--data", "{root}", "--stage", "5"], "invalid choice"),
    "out": (["--data", "{root}", "--out", "{root}/val2017/000000000010.png"], "cannot write"),
}


@pytest.mark.parametrize("arguments, sentence", ERRORS.values(), ids=ERRORS)
def test_errors(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(network, "load", lambda *_, **__: Fake())
    root = str(write(tmp_path / "data"))
    given = ["--weights", "w", *(text.format(root=root) for text in arguments)]
    monkeypatch.setattr("sys.argv", ["evaluate", *given])
    with pytest.raises(SystemExit) as end:
        entry.run(command.main)
    err = capsys.readouterr().err
    assert end.value.code == 2 and sentence in err and "Traceback" not in err
