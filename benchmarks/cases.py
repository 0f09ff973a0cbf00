"""Sizes people have, and which of them only `--full` runs."""

import itertools

import pytest


def full(*values):
    """Parameters of a case that only --full runs."""
    return pytest.param(*values, marks=pytest.mark.full)


def grid(usual: list[tuple], *axes) -> list:
    """Every combination of the axes; those that are not usual only with --full."""
    rest = [values for values in itertools.product(*axes) if values not in usual]
    return [*usual, *(full(*values) for values in rest)]


def number(count: int) -> str:
    """1 000 000"""
    return f"{count:,}".replace(",", " ")


def plural(count: int, word: str, words: str | None = None) -> str:
    """1 class, 80 classes"""
    return f"{number(count)} {word if count == 1 else words or word + 's'}"


def close(tolerance: float, relative: bool = False):
    """A check: all values within the tolerance; relative: the difference's norm to the norm."""
    import torch

    def check(ours, other, who):
        assert ours.shape == other.shape, f"{who} gives {list(other.shape)}, ours {list(ours.shape)}"
        ours, other = ours.float(), other.float()
        if relative:
            error = ((ours - other).norm() / other.norm().clamp(min=1e-12)).item()
            assert error < tolerance, f"differs from {who} by {error:.2g}"
        else:
            torch.testing.assert_close(ours, other, rtol=tolerance, atol=tolerance, msg=f"differs from {who}")

    return check
