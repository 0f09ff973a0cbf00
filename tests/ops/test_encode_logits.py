"""encode_logits, backend x named case: the strings that pycocotools makes of the reference's masks."""

import time

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from htc_fast import ops
from tests.ops.backends import CPP, CUDA, REFERENCE, cases, columns
from tests.ops.logit_cases import CASES, INF, KINDS, NAN, THRESHOLDS, draw, drawn, strings, wanted

OPERATOR = "encode_logits"
EVERY = (REFERENCE, CPP, CUDA)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, EVERY))
def test_named(name, column, kind):
    count, size, image, crop = CASES[name]
    logits = draw(count, size, kind)
    found = column.call(OPERATOR, logits, image, 0.0, crop)
    assert strings(found) == wanted(logits, image, 0.0, crop)
    assert all(one["size"] == list(image) for one in found)


@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_thresholds(threshold, kind, column):
    logits = draw(2, (9, 12), kind, threshold)
    assert strings(column.call(OPERATOR, logits, (40, 50), threshold)) == wanted(logits, (40, 50), threshold)


@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
@pytest.mark.parametrize("value", [0.0, -0.0, 0.25, -0.1, 1e-45, 3e38, INF, -INF, NAN])
def test_a_map_at_the_threshold_is_not_above_it(value, column):
    """Between two equal cells rounding may go either way; what is not a number is above nothing."""
    logits = torch.full((1, 5, 6), value)
    threshold = value if value == value else 0.0
    assert strings(column.call(OPERATOR, logits, (40, 50), threshold)) == wanted(logits, (40, 50), threshold)
    assert strings(column.call(OPERATOR, logits, (5, 6), threshold)) == [coco_zeros(5, 6)]


def coco_zeros(height: int, width: int) -> bytes:
    return coco_mask.encode(np.zeros((height, width), dtype=np.uint8, order="F"))["counts"]


@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-6, 1e6, 1e30])
def test_maps_that_are_nearly_flat(scale, column):
    """Across a cell of 300 rows the map changes by less than rounding, or by far more."""
    for threshold in (0.0, 0.5):
        logits = threshold + draw(1, (3, 4)) * scale
        assert strings(column.call(OPERATOR, logits, (900, 9), threshold)) == wanted(logits, (900, 9), threshold)


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP,)))
@drawn(250)
def test_drawn(column, region, image, kind, threshold, cut, seed):
    size, crop = region
    logits = draw(2, size, kind, threshold, seed)
    assert strings(column.call(OPERATOR, logits, image, threshold, crop)) == wanted(logits, image, threshold, crop)


@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
@pytest.mark.parametrize("size, image", [((108, 108), (750, 1000)), ((160, 160), (270, 480)), ((256, 256), (99, 77))])
def test_as_torch_resizes(size, image, column):
    """torch multiplies in another order: pixels within rounding of the threshold may fall on the other side."""
    logits = draw(4, size)
    bitmaps = torch.from_numpy(coco_mask.decode(column.call(OPERATOR, logits, image))).permute(2, 0, 1).bool()
    theirs = F.interpolate(logits[None], image, mode="bilinear", align_corners=False)[0]
    moved = bitmaps != (theirs > 0)
    assert moved.sum() <= 1e-5 * moved.numel()
    assert not moved.any() or theirs[moved].abs().max() < 1e-6
    assert 0.2 < bitmaps.float().mean() < 0.8


@pytest.mark.parametrize("column", columns(OPERATOR, EVERY))
def test_a_letterbox_is_what_torch_resizes_of_it(column):
    logits = draw(3, (40, 40))
    found = column.call(OPERATOR, logits, (90, 160), 0.0, (0, 9, 40, 31))
    theirs = F.interpolate(logits[None, :, 9:31].contiguous(), (90, 160), mode="bilinear", align_corners=False)[0] > 0
    moved = torch.from_numpy(coco_mask.decode(found)).permute(2, 0, 1).bool() != theirs
    assert moved.sum() <= 1


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, CUDA)))
def test_a_run_on_every_second_pixel(column):
    check = (torch.arange(80)[:, None] + torch.arange(300)) % 2 == 0
    logits = torch.where(check, 1.0, -1.0)[None]
    (found,) = column.call(OPERATOR, logits, (80, 300))
    assert int(check.sum()) == 12_000
    assert np.array_equal(coco_mask.decode(found), check.numpy())


def test_an_image_of_400_million_pixels():
    yy, xx = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    logits = (20 - ((yy - 31.5) ** 2 + (xx - 31.5) ** 2).sqrt())[None]
    start = time.perf_counter()
    (found,) = ops.encode_logits(logits, (20_000, 20_000))
    assert time.perf_counter() - start < 5
    radius = 20 / 64 * 20_000
    assert abs(int(coco_mask.area(found)) / (np.pi * radius**2) - 1) < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    logits = draw(4, (14, 20))
    assert ops.encode_logits(logits.to(dtype), (60, 90)) == ops.encode_logits(logits.to(dtype).float(), (60, 90))


def test_strides():
    logits = draw(4, (14, 20))
    want = ops.encode_logits(logits, (60, 90))
    assert ops.encode_logits(logits.transpose(1, 2).contiguous().transpose(1, 2), (60, 90)) == want
    assert ops.encode_logits(logits.repeat_interleave(2, 0)[::2], (60, 90)) == want
    assert ops.encode_logits(logits.clone().requires_grad_(), (60, 90)) == want


def test_threads_do_not_matter():
    logits, before = draw(9, (30, 40)), torch.get_num_threads()
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(ops.encode_logits(logits, (200, 300)))
    torch.set_num_threads(before)
    assert found[0] == found[1]


def test_opcheck():
    torch.library.opcheck(
        torch.ops.htc_fast.encode_logits.default, (draw(3, (9, 12)), 40, 60, 0.5, [0.0, 1.0, 12.0, 8.5])
    )


LOGITS = torch.zeros(2, 9, 12)
BAD = [
    (lambda: ops.encode_logits(LOGITS[0], (10, 10)), ValueError, r"logits must be \[K, h, w\]"),
    (lambda: ops.encode_logits(LOGITS[:, :0], (10, 10)), ValueError, r"logits must be \[K, h, w\]"),
    (lambda: ops.encode_logits(LOGITS.int(), (10, 10)), TypeError, "floating point"),
    (lambda: ops.encode_logits(LOGITS.tolist(), (10, 10)), TypeError, "logits must be a tensor"),
    (lambda: ops.encode_logits(LOGITS, (-1, 10)), ValueError, "image_size"),
    (lambda: ops.encode_logits(LOGITS, 10), ValueError, "image_size must be height, width"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), NAN), ValueError, "threshold must be a number"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), "a"), TypeError, "threshold must be a number"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), 0.0, (0, 0, 12)), ValueError, "crop must be"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), 0.0, (0, 0, 12, 9.5)), ValueError, "crop must be .* in the map"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), 0.0, (-1, 0, 12, 9)), ValueError, "crop must be"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), 0.0, (3, 0, 3, 9)), ValueError, "crop must be"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), 0.0, (0, 5, 12, 4)), ValueError, "crop must be"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), 0.0, (0, 0, INF, 9)), ValueError, "crop must be"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), 0.0, (0, 0, NAN, 9)), ValueError, "crop must be"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), 0.0, "abcd"), TypeError, "crop must be"),
    (lambda: ops.encode_logits(LOGITS, (10, 10), 0.0, 3), TypeError, "crop must be"),
]


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("call, error, said", BAD, ids=lambda one: one if isinstance(one, str) else "")
def test_errors(call, error, said, backend):
    with ops.use_backend(backend), pytest.raises(error, match=said):
        call()
