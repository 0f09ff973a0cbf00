"""encode_prototypes, backend x named case: the strings that pycocotools makes of the reference's masks."""

import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from htc_fast import ops
from tests.ops.backends import CPP, CUDA, REFERENCE, cases, columns
from tests.ops.logit_cases import (
    CASES,
    KINDS,
    NAN,
    STRANGE_BOXES,
    draw,
    draw_prototypes,
    drawn,
    strings,
    wanted_of,
)
from tests.ops.mask_cases import coco_strings

OPERATOR = "encode_prototypes"
EVERY = (REFERENCE, CPP, CUDA)
CUTS = pytest.mark.parametrize("cut", ["before", "after"])


@CUTS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, EVERY))
def test_named(name, column, kind, cut):
    count, size, image, crop = CASES[name]
    inputs = draw_prototypes(count, size, image, kind)
    found = column.call(OPERATOR, *inputs, image, 0.0, crop, cut)
    assert strings(found) == wanted_of(inputs, image, 0.0, crop, cut)
    assert all(one["size"] == list(image) for one in found)


@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
@pytest.mark.parametrize("threshold", [0.0, 1e-8, 0.3, 5.0, -1e-38, -0.7])
@pytest.mark.parametrize("cut", ["before", "after"])
def test_thresholds(cut, threshold, column):
    threshold = abs(threshold) if cut == "before" else threshold
    for kind in KINDS:
        inputs = draw_prototypes(5, (9, 12), (40, 50), kind, seed=3)
        found = column.call(OPERATOR, *inputs, (40, 50), threshold, None, cut)
        assert strings(found) == wanted_of(inputs, (40, 50), threshold, None, cut)


@CUTS
@pytest.mark.parametrize("crop", [None, (2.5, 1.0, 9.0, 7.25)])
@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
def test_strange_boxes(column, crop, cut):
    coefficients, prototypes, _ = draw_prototypes(len(STRANGE_BOXES), (8, 10), (30, 40))
    inputs = coefficients, prototypes, torch.tensor(STRANGE_BOXES)
    found = column.call(OPERATOR, *inputs, (30, 40), 0.0, crop, cut)
    assert strings(found) == wanted_of(inputs, (30, 40), 0.0, crop, cut)


@CUTS
@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
def test_a_whole_cell_more_or_less(column, cut):
    """Boxes whose ends fall on cells and pixels, and as near beside them as float32 has numbers."""
    ends = torch.tensor([8.0, 32.0])
    below, above = (torch.nextafter(ends, torch.tensor(way)) for way in (-1e9, 1e9))
    boxes = torch.stack([torch.stack([one, one], 1).reshape(-1) for one in (ends, below, above)])
    inputs = torch.ones(3, 1), torch.ones(1, 10, 10), boxes
    found = column.call(OPERATOR, *inputs, (40, 40), 0.0, None, cut)
    assert strings(found) == wanted_of(inputs, (40, 40), 0.0, None, cut)
    assert len(set(strings(found))) > 1


@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
def test_cut_before_fades_beyond_the_box_and_cut_after_does_not(column):
    inputs = torch.ones(1, 1), torch.ones(1, 10, 10), torch.tensor([[8.0, 8, 32, 32]])
    before, after = (column.call(OPERATOR, *inputs, (40, 40), 0.0, None, cut) for cut in ("before", "after"))
    assert coco_mask.area(before).tolist() == [28 * 28]  # to the centres of the next cells, two pixels beyond
    assert coco_mask.area(after).tolist() == [24 * 24]


@CUTS
@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
def test_without_prototypes_everything_is_zero(column, cut):
    inputs = draw_prototypes(2, (4, 5), (20, 30), channels=0)
    assert strings(column.call(OPERATOR, *inputs, (20, 30), 0.0, None, cut)) == coco_strings(torch.zeros(2, 20, 30))


@CUTS
@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
def test_what_lies_beyond_the_box_is_not_read(column, cut):
    """A prototype that is not a number far from the box: 0 times it would not be a number either."""
    prototypes = torch.ones(2, 20, 20)
    prototypes[:, :, 12:] = NAN
    inputs = torch.ones(1, 2), prototypes, torch.tensor([[4.0, 4, 30, 30]])
    found = column.call(OPERATOR, *inputs, (60, 60), 0.0, None, cut)
    assert strings(found) == wanted_of(inputs, (60, 60), 0.0, None, cut)
    assert coco_mask.area(found)[0] >= 26 * 26


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP,)))
@drawn(250)
def test_drawn(column, region, image, kind, threshold, cut, seed):
    size, crop = region
    inputs = draw_prototypes(3, size, image, kind, seed, channels=3)
    threshold = abs(threshold) if cut == "before" else threshold
    found = column.call(OPERATOR, *inputs, image, threshold, crop, cut)
    assert strings(found) == wanted_of(inputs, image, threshold, crop, cut)


@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
def test_as_torch_multiplies_and_resizes(column):
    """What ultralytics does with it, in its order of operations: a matrix product, the resize, the box."""
    coefficients, prototypes, _ = draw_prototypes(6, (80, 80), (270, 480), channels=32)
    boxes = torch.tensor([[30.5, 20.25, 400.5, 250.75]]).repeat(6, 1)
    found = column.call(OPERATOR, coefficients, prototypes, boxes, (270, 480))
    maps = (coefficients @ prototypes.flatten(1)).view(-1, 80, 80)
    theirs = F.interpolate(maps[None], (270, 480), mode="bilinear")[0] > 0
    x, y = torch.arange(480), torch.arange(270)[:, None]
    theirs &= (x >= 30.5) & (x < 400.5) & (y >= 20.25) & (y < 250.75)
    moved = torch.from_numpy(coco_mask.decode(found)).permute(2, 0, 1).bool() != theirs
    assert moved.sum() <= 1e-5 * moved.numel() and theirs.float().mean() > 0.1


@pytest.mark.parametrize("image, size", [((64, 96), (16, 24)), ((640, 480), (160, 120)), ((100, 100), (100, 100))])
def test_as_ultralytics_itself(image, size):
    peer = pytest.importorskip("ultralytics.utils.ops")
    coefficients, prototypes, boxes = draw_prototypes(12, size, image, channels=32)
    theirs = peer.process_mask(prototypes, coefficients, boxes, image, upsample=True).bool()
    found = ops.encode_prototypes(coefficients, prototypes, boxes, image)
    moved = torch.from_numpy(coco_mask.decode(found)).permute(2, 0, 1).bool() != theirs
    assert moved.sum() <= 1e-5 * moved.numel() + 1 and theirs.any()


def test_an_image_of_400_million_pixels():
    prototypes = draw(2, (40, 40)).abs() + 0.1
    boxes = torch.tensor([[5000.0, 7000, 12000, 9000]])
    (found,) = ops.encode_prototypes(torch.ones(1, 2), prototypes, boxes, (20_000, 20_000))
    assert coco_mask.area(found) == 7000 * 2000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    inputs = [one.to(dtype) for one in draw_prototypes(5, (14, 20), (60, 90))]
    assert ops.encode_prototypes(*inputs, (60, 90)) == ops.encode_prototypes(*(one.float() for one in inputs), (60, 90))


def test_strides():
    coefficients, prototypes, boxes = draw_prototypes(5, (14, 20), (60, 90))
    want = ops.encode_prototypes(coefficients, prototypes, boxes, (60, 90))
    strided = [coefficients.T.contiguous().T, prototypes.permute(1, 2, 0).contiguous().permute(2, 0, 1),
               boxes.repeat(1, 2)[:, :4]]  # fmt: skip
    assert not any(one.is_contiguous() for one in strided[1:])
    assert ops.encode_prototypes(*strided, (60, 90)) == want
    assert ops.encode_prototypes(coefficients.requires_grad_(), prototypes, boxes, (60, 90)) == want


def test_opcheck():
    inputs = draw_prototypes(3, (9, 12), (40, 60))
    for cut_after in (False, True):
        arguments = (*inputs, 40, 60, 0.5, [0.0, 1.0, 12.0, 8.5], cut_after)
        torch.library.opcheck(torch.ops.htc_fast.encode_prototypes.default, arguments)


C, P, B = draw_prototypes(4, (9, 12), (40, 50))
BAD = [
    (lambda: ops.encode_prototypes(C[:, :3], P, B, (9, 9)), ValueError, r"coefficients must be \[K, P\] = \[K, 5\]"),
    (lambda: ops.encode_prototypes(C[0], P, B, (9, 9)), ValueError, "coefficients must be"),
    (lambda: ops.encode_prototypes(C, P[0], B, (9, 9)), ValueError, r"prototypes must be \[P, h, w\]"),
    (lambda: ops.encode_prototypes(C, P[:, :0], B, (9, 9)), ValueError, r"prototypes must be \[P, h, w\]"),
    (lambda: ops.encode_prototypes(C, P, B[:3], (9, 9)), ValueError, r"boxes must be \[K, 4\] = \[4, 4\]"),
    (lambda: ops.encode_prototypes(C, P, B.int(), (9, 9)), TypeError, "boxes must be floating point"),
    (lambda: ops.encode_prototypes(C, P.to("meta"), B, (9, 9)), ValueError, "must be on"),
    (lambda: ops.encode_prototypes(C, P, B.tolist(), (9, 9)), TypeError, "boxes must be a tensor"),
    (lambda: ops.encode_prototypes(C, P, B, (-1, 9)), ValueError, "image_size"),
    (lambda: ops.encode_prototypes(C, P, B, (9, 9), NAN), ValueError, "threshold must be a number"),
    (lambda: ops.encode_prototypes(C, P, B, (9, 9), -0.1, None, "before"), ValueError, "threshold must not be"),
    (lambda: ops.encode_prototypes(C, P, B, (9, 9), 0.0, (0, 0, 12, 10)), ValueError, "crop must be"),
    (lambda: ops.encode_prototypes(C, P, B, (9, 9), 0.0, None, "during"), ValueError, "cut"),
]


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("call, error, said", BAD, ids=lambda one: one if isinstance(one, str) else "")
def test_errors(call, error, said, backend):
    with ops.use_backend(backend), pytest.raises(error, match=said):
        call()
