"""Two real processes (gloo, started by torchrun) do what one does with the joint batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from htc_fast.training import checkpoint
from htc_fast.training.distributed import World
from tests.training.gloo_worker import INDICES, gradients

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.training.gloo_worker", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_gradients_equal_the_joint_batch(folder):
    joint = gradients(INDICES)
    for rank in range(2):
        found = torch.load(folder / f"gradients{rank}.pt")
        assert found.keys() == joint.keys()
        for name, gradient in joint.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_joint_batch_is_not_the_mean_of_its_halves():
    # Otherwise the test above could not fail.
    halves = gradients(INDICES[:2]), gradients(INDICES[2:])
    joint = gradients(INDICES)
    name = "mask_heads.0.logits.weight"
    mean = (halves[0][name] + halves[1][name]) / 2
    assert (mean - joint[name]).norm() > 0.05 * joint[name].norm()


def test_processes_end_with_the_same_weights(folder):
    one, two = (torch.load(folder / f"weights{rank}.pt") for rank in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [path.stem for path in checkpoint.whole(folder / "run" / "checkpoints")] == ["000001", "000002"]


def test_processes_end_with_the_same_average(folder):
    one, two = (torch.load(folder / f"averaged{rank}.pt") for rank in range(2))
    counts = [name for name in one if "tracked" in name]
    assert counts and all(torch.equal(one[name], two[name]) for name in one)
    written = load_file(folder / "averaged" / "model.safetensors")
    assert all(torch.equal(one[name], written[name]) for name in one)
    saved = load_file(checkpoint.whole(folder / "averaged" / "checkpoints")[-1])
    changed = [name for name in saved if not torch.equal(saved[name], written[name])]
    assert any("running" in name for name in changed) and "rpn.objectness.weight" in changed


def test_a_limit_of_time_ends_all_processes_after_the_same_step(folder):
    one, two = (torch.load(folder / f"limited{rank}.pt") for rank in range(2))
    assert one == two and one["iteration"] > 0


def test_a_callback_of_the_leading_process_ends_all_of_them(folder):
    one, two = (torch.load(folder / f"early{rank}.pt") for rank in range(2))
    assert one["iteration"] == two["iteration"] == 10
    assert checkpoint.iteration_of(folder / "early" / "model.safetensors") == 10
    assert (folder / "early" / "best.safetensors").exists()


def test_alone_nothing_waits():
    assert World().any(True) and not World().any(False) and World().max(2.5) == 2.5
    assert World().agree(7)
