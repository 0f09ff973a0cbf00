"""Runs with Seesaw Loss: what was counted is saved and goes on; another loss is another network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from htc_fast import UserError
from htc_fast.criterion.losses import losses
from htc_fast.detector import create_model, load
from htc_fast.models.structures import Targets
from htc_fast.training.loop import Loop
from htc_fast.training.report import Report
from tests.models.test_zoo import tiny
from tests.training.gloo_worker import INDICES
from tests.training.seesaw_worker import steps
from tests.training.test_no_waits import empty, on_a_gpu
from tests.training.tiny import CLASSES, SMALL, tiny_batches, tiny_recipe

FIELDS = {"num_classes": CLASSES, "backbone": "test_resnet", "pretrained": False, "semantic_classes": 4, **SMALL}


@pytest.fixture(autouse=True)
def without_curves(monkeypatch):
    """They take longer than all else here."""
    monkeypatch.setattr(Report, "draw", lambda self: None)


def a_loop(folder, iterations, **fields):
    torch.manual_seed(0)
    model = create_model("htc_r50", **FIELDS, **{"class_loss": "seesaw", **fields})
    return Loop(model, tiny_batches(), tiny_recipe(iterations=iterations), folder)


def counts(model):
    return torch.stack([head.classes.counts for head in model.box_heads])


def test_a_run_that_goes_on_has_counted_what_a_whole_one_has(tmp_path):
    whole, half = a_loop(tmp_path / "whole", 4), a_loop(tmp_path / "half", 2)
    whole.run()
    half.run()
    assert (counts(whole.model) > counts(half.model)).all() and (counts(half.model) > 0).any()
    rest = a_loop(tmp_path / "half", 4)
    assert not counts(rest.model).any() and rest.resume()
    assert torch.equal(counts(rest.model), counts(half.model))
    rest.run()
    assert torch.equal(counts(rest.model), counts(whole.model))
    assert torch.equal(counts(load(tmp_path / "half" / "model.safetensors")), counts(whole.model))


def test_another_loss_is_another_network(tmp_path):
    a_loop(tmp_path, 1).run()
    with pytest.raises(UserError, match="class_loss was seesaw and is now cross_entropy"):
        a_loop(tmp_path, 2, class_loss="cross_entropy").resume()


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch knows no CUDA device, not even by name")
@pytest.mark.parametrize("name", ["htc_r50", "mask_rcnn_r50_interleaved"])
def test_nothing_waits(name):
    model = tiny(name, class_loss="seesaw", box_loss="giou", box_loss_weight=10.0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_a_gpu(model)
        images, sizes = empty(2, 3, 64, 96), empty(2, 2, dtype=torch.int64)
        assert model.eval().detect(images, sizes).boxes.shape == (2, 8, 4)
        labels, masks = empty(2, 4, dtype=torch.int64), empty(2, 4, 64, 96, dtype=torch.uint8)
        targets = Targets(empty(2, 4, 4), labels, masks, empty(2, 8, 12, dtype=torch.int64))
        terms = losses(model.train(), images, sizes, targets)
        assert {one.device.type for one in terms.values()} == {"cuda"} and "stage1_objectness" in terms


@pytest.mark.slow
def test_two_processes_count_and_learn_as_one_with_the_joint_batch(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.training.seesaw_worker", str(tmp_path)]
    options = {"cwd": Path(__file__).parents[2], "env": environment, "stderr": subprocess.PIPE, "text": True}
    for worker in [subprocess.Popen([*command, str(rank)], **options) for rank in range(2)]:
        _, said = worker.communicate(timeout=300)
        assert worker.returncode == 0, said[-3000:]
    gradients, counted = steps(INDICES)
    assert (counted > 0).all()
    assert (steps(INDICES[:2])[1] < counted).any()  # otherwise there would be nothing to share
    for rank in range(2):
        its_gradients, its_counts = torch.load(tmp_path / f"found{rank}.pt")
        assert torch.equal(its_counts, counted)
        for name, value in gradients.items():
            torch.testing.assert_close(its_gradients[name], value, rtol=1e-4, atol=1e-5)
