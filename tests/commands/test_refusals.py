"""What commands refuse before they begin: an odd environment, results that would replace what is read."""

import json
from types import SimpleNamespace

import pytest
import torch

from htc_fast.commands.output import check_kept
from htc_fast.errors import UserError
from htc_fast.inference import export
from htc_fast.training import distributed
from tests.models.test_zoo import tiny


@pytest.mark.parametrize("name", ["LOCAL_RANK", "WORLD_SIZE"])
@pytest.mark.parametrize("value", ["abc", "-1", "1.5"])
def test_ranks_that_are_no_numbers(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"the environment's {name} is a whole number .*, got '{value}'"):
        distributed.start("cpu")


def test_several_processes_without_torchrun(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match=r"WORLD_SIZE=2 asks for several processes \(.*RANK.*\): start them with torchrun"
    ):
        distributed.start("cpu")
    monkeypatch.setenv("WORLD_SIZE", "")
    assert distributed.start("cpu").size == 1


def test_what_is_read_is_not_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    check_kept(tmp_path / "a.json", tmp_path, ["metrics.json"])
    check_kept(None, tmp_path, ["metrics.json"])
    with pytest.raises(UserError, match=r"metrics\.json would replace the annotation file itself"):
        check_kept(tmp_path / "metrics.json", tmp_path / "link", ["a.json", "metrics.json"])


def test_an_exported_file_names_classes_and_their_ids():
    model = tiny("mask_rcnn_r50", class_names=("cat", "dog", "owl"), category_ids=(7, 9, 12))
    program = SimpleNamespace(example_inputs=[(torch.zeros(1, 3, 64, 96), None)])
    notes = json.loads(json.dumps(export.notes_of(model.config, program)))
    assert notes["class_names"] == ["cat", "dog", "owl"] and notes["category_ids"] == [7, 9, 12]
    assert notes["images"] == [1, 3, 64, 96] and len(notes["std"]) == 3
