"""Batch norms over all processes: two (gloo) with one picture each do what one does with both; padding does nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from htc_fast.models import structures
from htc_fast.models.norm import JointBatchNorm
from tests.models.test_zoo import tiny
from tests.training import test_no_waits as no_waits
from tests.training.norm_worker import LAYERS, PAIRS, layer, step

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("norm")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.training.norm_worker", str(folder)]
    options = {"cwd": ROOT, "env": environment, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([*command, str(rank)], **options) for rank in range(2)]
    for worker in workers:
        _, said = worker.communicate(timeout=300)
        assert worker.returncode == 0, said[-3000:]
    return [torch.load(folder / f"found{rank}.pt") for rank in range(2)]


def assert_near(found, want):
    assert found.keys() == want.keys()
    for name, value in want.items():
        # What the losses add up in float32 is in every gradient.
        near = max(1e-5 * float(value.abs().max()), 1e-9) if value.is_floating_point() else 0
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=near, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_two_processes_are_one_with_the_joint_batch(two, pair):
    joint = step(PAIRS[pair])
    one, other = (found[pair] for found, _ in two)
    # Every process has its part of the sum over the mean count.
    assert_near({name: (one[0][name] + other[0][name]) / 2 for name in joint[0]}, joint[0])
    for mine in (one, other):
        assert_near(mine[1], joint[1])
        assert_near(mine[2], joint[2])
    names = {name for name, value in joint[2].items() if name.endswith("num_batches_tracked") and value > 0}
    parts = {name.split(".")[0] for name in names}
    assert parts == {"backbone", "fpn", "semantic_head", "box_heads", "mask_heads"}
    frozen = [name for name in joint[2] if name.startswith(("backbone.net.bn1", "backbone.net.layer1"))]
    assert frozen and not names & set(frozen)
    # The first mask head runs for itself and for the two behind it.
    assert joint[2]["mask_heads.0.convs.0.norm.num_batches_tracked"] == 3


def test_statistics_of_halves_are_others():
    """Otherwise the test above could not fail."""
    joint, alone = step(PAIRS["some and some"]), step(PAIRS["some and some"][:1])
    for name in ("fpn.output.0.norm.running_var", "mask_heads.0.convs.0.norm.running_var"):
        assert (joint[2][name] - alone[2][name]).norm() > 0.01 * joint[2][name].norm()


@pytest.mark.slow
@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (2, 3), (3, 1)])
def test_rows_are_counted_wherever_they_are(two, pair):
    joint = layer(0, pair)
    first = LAYERS[pair[0]][0]
    parts = [slice(first), slice(first, None)]
    found = [layers[pair] for _, layers in two]
    for part, mine in zip(parts, found):
        for one, want in zip((*mine[:2], *mine[4:]), (joint[0][part], joint[1][part], *joint[4:]), strict=True):
            torch.testing.assert_close(one, want)
    for index in (2, 3):  # which DistributedDataParallel adds up
        torch.testing.assert_close(found[0][index] + found[1][index], joint[index])


def test_padding_changes_nothing(monkeypatch):
    """A CPU takes the rows that are real and a few beside them, a GPU all."""
    few = step(PAIRS["some and none"])
    monkeypatch.setattr(structures, "may_wait", lambda tensor: False)
    every = step(PAIRS["some and none"])
    for one, other in zip(every, few):
        assert_near(one, other)


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch knows no CUDA device, not even by name")
def test_nothing_waits():
    assert sum(isinstance(one, JointBatchNorm) for one in tiny("htc_r50_syncbn").modules()) > 40
    no_waits.test_nothing_waits("htc_r50_syncbn")
