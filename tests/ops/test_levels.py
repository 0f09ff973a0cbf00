"""Which level of the pyramid a box reads: one rule in every backend, for boxes on an edge too."""

import numpy as np
import pytest
import torch

from htc_fast.ops.reference.roi_align import level_of
from tests.ops.backends import ALL, NATIVE, columns

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
FINEST = np.float32(56)
MAPS = [torch.full((1, 4, 32, 32), float(level)).contiguous(memory_format=torch.channels_last) for level in range(4)]


def sides_around_the_edges() -> np.ndarray:
    """Every float32 around the sides at which the level changes, 112, 224 and 448, and around 112 and so on exactly."""
    found = []
    for edge in (2, 4, 8):
        for middle in (np.float32(FINEST * (edge - np.float32(1e-6))), np.float32(FINEST * edge)):
            step = np.spacing(middle)
            found += [middle + step * at for at in range(-8, 9)]
    return np.unique(np.array(found, dtype=np.float32))


def levels_of(sides: np.ndarray) -> np.ndarray:
    """Equation 1 of FPN step by step in float32, as csrc/geometry.h has it."""
    size = np.sqrt(sides * sides) / FINEST + np.float32(1e-6)
    return sum((size >= np.float32(edge)).astype(np.int64) for edge in (2, 4, 8))


def squares() -> tuple[torch.Tensor, torch.Tensor]:
    """RoIs [K, 5] of these sides, and their levels [K]."""
    sides = sides_around_the_edges()
    rois = torch.zeros(len(sides), 5)
    rois[:, 3] = rois[:, 4] = torch.from_numpy(sides)
    return rois, torch.from_numpy(levels_of(sides))


def test_the_boxes_lie_on_both_sides_of_every_edge():
    sides = sides_around_the_edges()
    size, levels = np.sqrt(sides * sides) / FINEST + np.float32(1e-6), levels_of(sides)
    for level, edge in enumerate(np.float32([2, 4, 8])):
        below, above = np.nextafter(edge, np.float32(0)), np.nextafter(edge, np.float32(9))
        # One unit in the last place below and above it, and on it where a square's size can be (4 is no square's).
        assert below in size and above in size and (edge in size or edge == 4)
        assert (levels[size == below] == level).all() and (levels[(size == edge) | (size == above)] == level + 1).all()
    # The rule by a logarithm would have told some of them otherwise.
    assert (np.floor(np.log2(size)).astype(np.int64) != levels).any()


@pytest.mark.parametrize("operator, column", [
    *(pytest.param("multi_level_roi_align", *one.values, id=f"roi_align-{one.id}", marks=one.marks)
      for one in columns("multi_level_roi_align", ALL)),
    *(pytest.param("pr_roi_pool", *one.values, id=f"pr_roi_pool-{one.id}", marks=one.marks)
      for one in columns("pr_roi_pool", NATIVE)),
])  # fmt: skip
def test_boxes_on_an_edge_read_the_same_level(operator, column):
    rois, levels = squares()
    options = {"sampling_ratio": 1} if operator == "multi_level_roi_align" else {}
    out = column.call(operator, MAPS, rois, (1, 1), SCALES, **options)
    assert torch.equal(out.float().round().long()[:, 0, 0, 0], levels)


def test_broken_boxes_have_a_level_too():
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[0, 0, nan, 9], [0, 0, inf, inf], [9, 9, 0, 0], [5, 5, 5, 5], [0, 0, inf, 0]])
    assert level_of(boxes, 56.0, 4).tolist() == [0, 3, 0, 0, 0] and level_of(boxes, 56.0, 1).tolist() == [0] * 5
