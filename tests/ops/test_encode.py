"""encode, backend x named case: pycocotools' strings of whole masks."""

import numpy as np
import pytest
import torch

from htc_fast import ops
from tests.ops.backends import CPP, CUDA, REFERENCE, cases, columns
from tests.ops.rle_cases import CASES, coco, draw, drawn

OPERATOR = "encode"
CHOSEN = (REFERENCE, CPP, CUDA)


@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, CHOSEN))
def test_named(name, column):
    masks = draw(*CASES[name])
    assert column.call(OPERATOR, masks) == coco(masks)


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, CUDA)))
@drawn(200)
def test_drawn(column, height, width, kind, seed):
    masks = draw(2, height, width, kind, seed)
    assert column.call(OPERATOR, masks) == coco(masks)


@pytest.mark.parametrize("column", columns(OPERATOR, CHOSEN))
def test_few_wide_masks_are_split(column):
    """Parts that begin inside a run, without a change, with one, two, three and more."""
    masks = torch.zeros(1, 70, 512 * 6, dtype=torch.bool)
    masks[0, :, 400:1200] = True
    masks[0, 5, 1600] = masks[0, 9, 2100] = masks[0, 11, 2101] = True
    masks[0, ::3, 2600:] = True
    assert column.call(OPERATOR, masks) == coco(masks)
    assert column.call(OPERATOR, ~masks) == coco(~masks)


@pytest.mark.parametrize("column", columns(OPERATOR, CHOSEN))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16])
def test_what_is_not_zero_is_the_mask(column, dtype):
    masks = draw(3, 70, 80, "noise")
    values = torch.where(masks, torch.arange(80).remainder(127) + 1, 0).to(dtype)
    assert column.call(OPERATOR, values) == coco(masks)


def test_bytes_above_127_and_multiples_of_256():
    masks = draw(1, 70, 80, "disc")
    assert ops.encode(masks.byte() * 255) == ops.encode(masks.int() * 256) == coco(masks)


@pytest.mark.parametrize("column", columns(OPERATOR, CHOSEN))
def test_strides(column):
    masks = draw(4, 60, 140, "noise")
    for view in (masks.transpose(1, 2), masks[:, ::2, 1::3], masks[::2], masks[:1].expand(3, 60, 140)):
        assert column.call(OPERATOR, view) == coco(view)


def test_arrays():
    masks = draw(3, 60, 70, "noise")
    arrays = [masks.numpy(), np.asfortranarray(masks.numpy()), masks.numpy().astype(np.int32)]
    assert all(ops.encode(one) == coco(masks) for one in arrays)
    assert ops.encode(masks.numpy()[:, ::-1]) == coco(masks.flip(1))
    frozen = masks.numpy().copy()
    frozen.flags.writeable = False
    assert ops.encode(frozen) == coco(masks)


def test_one_mask_alone():
    masks = draw(1, 60, 70, "disc")
    assert ops.encode(masks[0]) == coco(masks)[0]
    assert ops.encode(masks[0, :0]) == {"size": [0, 70], "counts": b"0"}


def test_threads_change_nothing():
    masks, before = draw(3, 65, 3000, "disc"), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert ops.encode(masks) == coco(masks)
    finally:
        torch.set_num_threads(before)


def test_opcheck():
    torch.library.opcheck(torch.ops.htc_fast.encode.default, (draw(3, 20, 30, "noise"),))


@pytest.mark.parametrize(
    "masks, error, said",
    [
        (torch.rand(2, 4, 5), TypeError, "compare with a threshold first"),
        (np.ones((2, 4, 5)), TypeError, "compare with a threshold first"),
        (torch.ones(4, dtype=torch.bool), ValueError, r"must be \[K, H, W\] or \[H, W\], got \[4\]"),
        (torch.ones(1, 2, 3, 4, dtype=torch.bool), ValueError, r"must be \[K, H, W\]"),
        ([[True]], TypeError, "masks must be a tensor, got list"),
        (torch.eye(3).bool().to_sparse(), TypeError, "dense"),
    ],
)
def test_errors(masks, error, said):
    with pytest.raises(error, match=said):
        ops.encode(masks)
