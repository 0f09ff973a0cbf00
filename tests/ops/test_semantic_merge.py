"""semantic_merge: the pyramid at one level's size, each level through its 1x1 and ReLU."""

import pytest
import torch

from htc_fast import ops
from tests.ops.matrix_cases import (
    check_compile_and_export,
    compare,
    draw,
    is_channels_last,
    on_triton,
    over_torch,
    with_dtypes,
)


def leaves(*sides, channels=16, outputs=24, images=2):
    levels = len(sides)
    maps = [draw(images, channels, *side, seed=i) for i, side in enumerate(sides)]
    weights = [draw(outputs, channels, 1, 1, seed=i, scale=0.3) for i in range(levels)]
    return [*maps, *weights, *(draw(outputs, seed=i) for i in range(levels))]


def merge(*given, level=1):
    levels = len(given) // 3
    return ops.semantic_merge(given[:levels], given[levels : 2 * levels], given[2 * levels :], level=level)


PYRAMID = (12, 16), (6, 8), (3, 4), (2, 2), (1, 1)
CASES = {
    "odd sizes": leaves((13, 17), (7, 9), (4, 5), (2, 3), (1, 2), images=1),
    "odd channels": leaves(*PYRAMID[1:4], channels=19, outputs=33),
    "pyramid": leaves(*PYRAMID),
    "two levels": leaves((9, 7), (5, 4), channels=3, outputs=2, images=1),
    "one pixel": leaves((3, 3), (1, 1), (2, 2)),
    "wide": leaves((4, 4), (2, 2), channels=40, outputs=150, images=1),
}


@pytest.mark.parametrize("name, dtype, column", with_dtypes("semantic_merge", CASES))
def test_equals_reference(name, column, dtype):
    assert is_channels_last(compare(merge, CASES[name], column, dtype))


@pytest.mark.parametrize("column", over_torch("semantic_merge"))
@pytest.mark.parametrize("level", [0, 2])
def test_any_level_may_set_the_size(level, column):
    out = compare(lambda *some: merge(*some, level=level), leaves(*PYRAMID[1:4]), column)
    assert out.shape[2:] == PYRAMID[1 + level]


@pytest.mark.parametrize("column", over_torch("semantic_merge"))
def test_compile_and_export(column):
    check_compile_and_export(merge, CASES["two levels"], column)


def test_gradcheck():
    small = leaves((4, 3), (2, 2), (1, 1), channels=2, outputs=2, images=1)
    assert torch.autograd.gradcheck(merge, [one.double().requires_grad_() for one in small])


@pytest.mark.slow
@pytest.mark.parametrize("column", on_triton("semantic_merge"))
def test_opcheck(column):
    given = [one.to(column.device).requires_grad_() for one in CASES["two levels"]]
    torch.library.opcheck(torch.ops.htc_fast_triton.semantic_merge.default, (given[:2], given[2:4], given[4:], 1))
    plain = [one.detach() for one in given]
    torch.library.opcheck(torch.ops.htc_fast_triton.semantic_merge_backward.default,
                          (merge(*plain), plain[:2], plain[2:4], plain[4:], 1))  # fmt: skip


def test_errors():
    given = leaves(*PYRAMID[:2])
    for level, said in ((2, "level must be"), (-1, "level must be")):
        with pytest.raises(ValueError, match=said):
            merge(*given, level=level)
    with pytest.raises(ValueError, match=r"features\[1\].*does not fit"):
        merge(given[0], given[1][:1], *given[2:])
    with pytest.raises(ValueError, match="with a weight and a bias each"):
        ops.semantic_merge(given[:2], given[2:3], given[4:])
    with pytest.raises(ValueError, match="no map empty"):
        merge(given[0], given[1][:, :, :0], *given[2:])
