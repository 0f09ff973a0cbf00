"""decode, backend x named case: the masks that the strings were made of."""

import pytest
import torch

from htc_fast import ops
from htc_fast.ops import _rle
from tests.ops.backends import CPP, CUDA, REFERENCE, cases, columns
from tests.ops.rle_cases import CASES, coco, draw, drawn

OPERATOR = "decode"
CHOSEN = (REFERENCE, CPP, CUDA)


@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, CHOSEN))
def test_named(name, column):
    masks = draw(*CASES[name])
    found = column.call(OPERATOR, coco(masks), device=column.device)
    assert torch.equal(found, masks if len(masks) else torch.zeros(0, 0, 0, dtype=torch.bool))


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, CUDA)))
@drawn(200)
def test_drawn(column, height, width, kind, seed):
    masks = draw(2, height, width, kind, seed)
    assert torch.equal(column.call(OPERATOR, coco(masks), device=column.device), masks)


@pytest.mark.parametrize("column", columns(OPERATOR, CHOSEN))
def test_one_dict_alone(column):
    masks = draw(1, 60, 70, "disc")
    assert torch.equal(column.call(OPERATOR, coco(masks)[0], device=column.device), masks[0])


def test_lists_of_counts():
    masks = ops.decode([{"size": [2, 3], "counts": [1, 3, 2]}])
    assert masks.tolist() == [[[False, True, False], [True, True, False]]]


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP,)))
def test_wide_masks_are_split(column):
    """Runs that begin in one panel of columns and end in another."""
    masks = torch.zeros(2, 100, 9001, dtype=torch.bool)
    masks[0, :, 10:8000] = True
    masks[1, 7:, ::2] = masks[1, :, 4000:4200] = True
    assert torch.equal(column.call(OPERATOR, coco(masks)), masks)


def test_threads_change_nothing():
    masks, before = draw(3, 65, 3000, "disc"), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(ops.decode(coco(masks)), masks)
    finally:
        torch.set_num_threads(before)


def test_opcheck():
    runs, offsets, _ = _rle.read("rles", coco(draw(3, 20, 30, "noise")))
    torch.library.opcheck(torch.ops.htc_fast.decode.default, (runs, offsets, torch.empty(0), 20, 30))


@pytest.mark.parametrize("column", columns(OPERATOR, CHOSEN))
def test_sizes_that_differ(column):
    rles = [ops.encode(torch.zeros(3, side, dtype=torch.bool)) for side in (4, 4, 5)]
    with pytest.raises(ValueError, match=r"all be of one size, got \[3, 4\] and, at 2, \[3, 5\]"):
        column.call(OPERATOR, rles, device=column.device)
