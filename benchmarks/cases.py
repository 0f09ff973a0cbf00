"""Sizes people have, which of them only `--full` runs, which `--quick`; and what a result is compared with."""

import itertools

import pytest
import torch

from htc_fast.ops import _native


def select(usual: list[tuple], quick: list[tuple] = (), rest: list[tuple] = ()) -> list:
    """Cases marked by who runs them: all with --full, `quick` with --quick, `usual` otherwise."""
    return [_marked(case, case in usual, case in quick) for case in dict.fromkeys([*usual, *quick, *rest])]


def _marked(case: tuple, usual: bool, quick: bool):
    marks = [pytest.mark.full] * (not usual) + [pytest.mark.quick] * quick
    words = ["x".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in case]
    return pytest.param(*case, marks=marks, id="-".join(words))


def grid(usual: list[tuple], *axes, quick: list[tuple] = ()) -> list:
    """Every combination of the axes; those that are not usual only with --full."""
    return select(usual, quick, list(itertools.product(*axes)))


def number(count: int) -> str:
    """1 000 000"""
    return f"{count:,}".replace(",", " ")


def plural(count: int, word: str, words: str | None = None) -> str:
    """1 class, 80 classes"""
    return f"{number(count)} {word if count == 1 else words or word + 's'}"


def close(tolerance: float, relative: bool = False):
    """A check: all values within the tolerance; relative: the difference's norm to the norm."""

    def check(ours, other, who):
        assert ours.shape == other.shape, f"{who} gives {list(other.shape)}, ours {list(ours.shape)}"
        ours, other = ours.float(), other.float()
        if relative:
            error = ((ours - other).norm() / other.norm().clamp(min=1e-12)).item()
            assert error < tolerance, f"differs from {who} by {error:.2g}"
        else:
            torch.testing.assert_close(ours, other, rtol=tolerance, atol=tolerance, msg=f"differs from {who}")

    return check


def as_on_the_cpu(call, *inputs: torch.Tensor):
    """A check of a GPU's result alone: boxes and masks are the CPU's, all of them.

    call  inputs -> result
    """

    def check(result):
        if inputs[0].device.type == "cpu" or not _native.loaded():
            return
        wanted = call(*(one.cpu() for one in inputs))
        same = torch.equal(result.cpu(), wanted) if isinstance(result, torch.Tensor) else result == wanted
        assert same, "differs from the CPU"

    return check
