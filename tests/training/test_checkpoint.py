"""Checkpoints: whole or absent, kept N deep, and a full disk costs nothing but the newest."""

import errno
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from htc_fast import UserError
from htc_fast.training import checkpoint
from htc_fast.training.metrics import append_row, drop_rows_after, read_rows

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Config:
    name: str = "tiny"
    channels: int = 4


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = Config()
        self.layer = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)


def test_round_trip_in_any_memory_format(tmp_path):
    model = Tiny().to(memory_format=torch.channels_last)
    state = {"position": {"iteration": 7}, "momentum": torch.rand(3)}
    weights = checkpoint.save(tmp_path, 7, model, state, keep=2)
    other = Tiny().to(memory_format=torch.channels_last)
    loaded = checkpoint.load(weights, other)
    assert all((a == b).all() for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert other.layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert loaded["position"] == state["position"] and (loaded["momentum"] == state["momentum"]).all()


def test_keeps_the_newest(tmp_path):
    for iteration in (5, 10, 1_000_000, 20):
        checkpoint.save(tmp_path, iteration, Tiny(), {}, keep=3)
    assert [path.stem for path in checkpoint.whole(tmp_path)] == ["000010", "000020", "1000000"]
    assert len(list(tmp_path.iterdir())) == 6


def test_half_a_checkpoint_does_not_count(tmp_path):
    checkpoint.save(tmp_path, 1, Tiny(), {}, keep=3)
    (tmp_path / "000002.safetensors").write_bytes(b"written, then killed")
    (tmp_path / "000003.state.partial").write_bytes(b"")
    assert [path.stem for path in checkpoint.whole(tmp_path)] == ["000001"]


def test_damaged_checkpoint_is_one_sentence(tmp_path):
    weights = checkpoint.save(tmp_path, 1, Tiny(), {}, keep=3)
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(UserError, match=r"cannot continue from .*000001"):
        checkpoint.load(weights, Tiny())


@pytest.mark.slow
def test_no_space_left_keeps_the_previous(tmp_path):
    # A real refusal by the system: the process may write no file beyond 1 kB.
    weights = checkpoint.save(tmp_path, 1, Tiny(), {"state": 1}, keep=1)
    code = f"""
        import resource, signal, pathlib, torch
        from tests.training.test_checkpoint import Tiny, checkpoint
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        checkpoint.save(pathlib.Path({str(tmp_path)!r}), 2, Tiny(), {{"state": torch.zeros(1000)}}, keep=1)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    assert "UserError: could not save" in done.stderr and "previous checkpoint is intact" in done.stderr
    assert checkpoint.whole(tmp_path) == [weights]
    assert checkpoint.load(weights, Tiny()) == {"state": 1}
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_disk_costs_no_rows_of_a_run_that_goes_on(tmp_path, monkeypatch):
    file = tmp_path / "losses.csv"
    for iteration in (10, 20, 30):
        append_row(file, iteration, {"loss": 2.5})
    before = file.read_text()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        with pytest.raises(UserError, match=r"could not save .*losses\.csv \(No space left on device"):
            drop_rows_after(file, 20)
    assert file.read_text() == before and [path.name for path in tmp_path.iterdir()] == ["losses.csv"]
    drop_rows_after(file, 20)
    assert read_rows(file) == [{"iteration": 10.0, "loss": 2.5}, {"iteration": 20.0, "loss": 2.5}]
