"""The encoders' CUDA kernels, in the emulator and on a GPU: the strings that pycocotools makes of the reference."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from htc_fast.ops import _rle
from tests.ops.backends import CUDA, EMULATED, cases, columns, emulated_only, watched_only
from tests.ops.logit_cases import strings, wanted, wanted_of
from tests.ops.mask_cases import coco_strings
from tests.simt import emulator, operators

ON_GPU = (EMULATED, CUDA)
# masks, map size, image size, the map's cells that the image shows
CASES = {
    "usual": (3, (14, 20), (60, 90), None),
    "one_cell": (3, (1, 1), (20, 30), None),
    "flat_maps": (3, (1, 9), (40, 50), None),
    "tall_maps": (3, (33, 2), (150, 20), None),
    "wide_image": (2, (14, 14), (12, 300), None),
    "tall_image": (2, (14, 14), (300, 12), None),
    "one_pixel": (3, (28, 28), (1, 1), None),
    "no_masks": (0, (28, 28), (30, 40), None),
    "no_pixels": (2, (28, 28), (0, 40), None),
    "no_columns": (2, (28, 28), (30, 0), None),
    "many": (150, (3, 3), (9, 7), None),
    "shrinks": (3, (40, 50), (9, 7), None),
    "shrinks_down": (2, (90, 4), (20, 40), None),
    "letterbox": (3, (20, 20), (60, 100), (0.0, 4.0, 20.0, 16.0)),
    "crop": (3, (20, 24), (50, 70), (1.3, 2.7, 19.6, 17.1)),
    "inside_a_cell": (2, (5, 5), (40, 30), (2.2, 3.1, 2.3, 3.6)),
}
KINDS = ("smooth", "noise", "level", "strange", "steps")
WATCHED = emulated_only(
    CASES,
    asan="usual one_cell flat_maps tall_maps tall_image one_pixel no_masks no_pixels no_columns shrinks crop",
    race="usual wide_image shrinks",
)
NAN, INF = float("nan"), float("inf")


def draw(count: int, size, kind: str = "smooth", threshold: float = 0.0, seed: int = 0) -> Tensor:
    """Logits [count, h, w]; level: all at the threshold, or next to it; strange: with NaN and infinities in them."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(count, *size, generator=generator)
    if kind == "smooth" and min(size) > 6 and count:
        return F.avg_pool2d(maps[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
    if kind == "level":
        beside = torch.nextafter(torch.tensor(threshold), torch.tensor(INF))
        return torch.where(maps > 1, beside, torch.full_like(maps, threshold))
    if kind == "strange":
        for index, value in enumerate((NAN, INF, -INF, 3e38, -3e38)):
            maps[(maps * 100).round() % 17 == index] = value
    return maps.round() if kind == "steps" else maps


def draw_prototypes(count: int, size, image, channels: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """coefficients [K, P], prototypes [P, h, w], boxes [K, 4], some beyond the image, some turned round."""
    generator = torch.Generator().manual_seed(seed)
    reach = torch.tensor([image[1], image[0]], dtype=torch.float32)
    corner = (torch.rand(count, 2, generator=generator) * 1.2 - 0.2) * reach
    boxes = torch.cat([corner, corner + (torch.rand(count, 2, generator=generator) - 0.1) * reach], dim=1)
    coefficients = torch.randn(count, channels, generator=generator)
    return coefficients, draw(channels, size, seed=seed + 1), boxes.round() if seed % 2 else boxes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name, column", cases("encode_logits", CASES, ON_GPU, watched_only(WATCHED)))
def test_logits_named(name, column, kind):
    count, size, image, crop = CASES[name]
    logits = draw(count, size, kind)
    found = column.call("encode_logits", logits, image, 0.0, crop)
    assert strings(found) == wanted(logits, image, 0.0, crop)
    assert all(one["size"] == list(image) for one in found)


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("name, column", cases("encode_prototypes", CASES, ON_GPU, watched_only(WATCHED)))
def test_prototypes_named(name, column, cut):
    count, size, image, crop = CASES[name]
    inputs = draw_prototypes(count, size, image)
    found = column.call("encode_prototypes", *inputs, image, 0.0, crop, cut)
    assert strings(found) == wanted_of(inputs, image, 0.0, crop, cut)


@pytest.mark.parametrize("column", columns("encode_logits", ON_GPU))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", [0.3, -0.7, 1e-8])
def test_thresholds(threshold, kind, column):
    logits, image = draw(2, (9, 12), kind, threshold), (40, 50)
    assert strings(column.call("encode_logits", logits, image, threshold)) == wanted(logits, image, threshold)
    inputs = draw_prototypes(4, (9, 12), image, seed=3)
    found = column.call("encode_prototypes", *inputs, image, threshold, None, "after")
    assert strings(found) == wanted_of(inputs, image, threshold)


@pytest.mark.parametrize("column", columns("encode_logits", (EMULATED,)))
@pytest.mark.parametrize("threshold", [-0.5, INF, -INF, NAN])
def test_whatever_threshold_the_kernels_are_given(threshold, column):
    logits, image = draw(2, (9, 12), "strange"), (40, 50)
    assert strings(column.call("encode_logits", logits, image, threshold)) == wanted(logits, image, threshold)
    inputs = draw_prototypes(4, (9, 12), image, seed=3)
    found = column.call("encode_prototypes", *inputs, image, threshold, None, "before")
    assert strings(found) == wanted_of(inputs, image, threshold, None, "before")


@pytest.mark.parametrize("column", columns("encode_logits", ON_GPU))
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_maps_that_are_nearly_flat(scale, column):
    """Across a cell of 300 rows the map changes by less than rounding, or by far more."""
    logits = 0.5 + draw(1, (3, 4)) * scale
    assert strings(column.call("encode_logits", logits, (900, 9), 0.5)) == wanted(logits, (900, 9), 0.5)


@pytest.mark.parametrize("column", columns("encode_prototypes", ON_GPU))
@pytest.mark.parametrize("threshold, cut", [(0.0, "before"), (0.0, "after"), (-0.5, "after")])
def test_strange_boxes(threshold, cut, column):
    boxes = [[NAN, 0, 20, 20], [0, 0, INF, 20], [-INF, 5, INF, 9], [5, 5, 5, 20], [20, 5, 10, 9], [100, 5, 120, 9],
             [3.1, 3.1, 3.2, 9], [-1e30, -1e30, 1e30, 1e30], [0, 0, 1, 1], [39, 29, 40, 30]]  # fmt: skip
    coefficients, prototypes, _ = draw_prototypes(len(boxes), (8, 10), (30, 40))
    inputs = coefficients, prototypes, torch.tensor(boxes)
    found = column.call("encode_prototypes", *inputs, (30, 40), threshold, None, cut)
    assert strings(found) == wanted_of(inputs, (30, 40), threshold, None, cut)


@pytest.mark.parametrize("column", columns("encode_prototypes", ON_GPU))
def test_without_prototypes_everything_is_zero(column):
    inputs = draw_prototypes(2, (4, 5), (20, 30), channels=0)
    for cut in ("before", "after"):
        found = column.call("encode_prototypes", *inputs, (20, 30), 0.0, None, cut)
        assert strings(found) == coco_strings(torch.zeros(2, 20, 30))
    whole_image = *inputs[:2], torch.tensor([[0.0, 0, 30, 20]] * 2)
    found = column.call("encode_prototypes", *whole_image, (20, 30), -1.0, None, "after")
    assert strings(found) == coco_strings(torch.ones(2, 20, 30))


# count, height, width, share of ones
BITMAPS = {
    "usual": (3, 60, 90, 0.5),
    "one_word": (2, 64, 33, 0.5),
    "two_words": (2, 128, 32, 0.99),
    "below_a_word": (2, 65, 31, 0.5),
    "all_threads": (1, 2048, 3, 0.9),
    "read_twice": (1, 2049, 5, 0.9),
    "ends_with_a_word": (1, 4096, 2, 0.97),
    "full": (2, 130, 40, 1.1),
    "empty": (2, 130, 40, 0.0),
    "one_pixel": (5, 1, 1, 0.5),
    "one_row": (2, 1, 300, 0.5),
    "no_masks": (0, 20, 30, 0.5),
    "no_rows": (2, 0, 30, 0.5),
    "no_columns": (2, 30, 0, 0.5),
}
WATCHED_BITMAPS = emulated_only(
    BITMAPS,
    asan="one_word two_words below_a_word read_twice ends_with_a_word one_pixel one_row no_masks no_rows no_columns",
    race="two_words read_twice",
)


def draw_bitmaps(name: str) -> Tensor:
    count, height, width, share = BITMAPS[name]
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(5)) < share


@pytest.mark.parametrize("name, column", cases("encode", BITMAPS, ON_GPU, watched_only(WATCHED_BITMAPS)))
def test_encode_named(name, column):
    masks = draw_bitmaps(name)
    found = column.call("encode", masks)
    assert strings(found) == coco_strings(masks)
    assert all(one["size"] == list(masks.shape[1:]) for one in found)


@pytest.mark.parametrize("name, column", cases("decode", BITMAPS, ON_GPU, watched_only(WATCHED_BITMAPS)))
def test_decode_named(name, column):
    masks = draw_bitmaps(name)
    if len(masks):
        size = list(masks.shape[1:])
        rles = [{"size": size, "counts": one} for one in coco_strings(masks)]
        runs = _rle.read("rles", rles)
        there = torch.empty(0, device=column.device)
        found = (
            operators.decode(rles)
            if column == EMULATED
            else torch.ops.htc_fast.decode(runs.runs, runs.offsets, there, *size).cpu()
        )
        assert torch.equal(found, masks)


@pytest.mark.parametrize("column", columns("encode", (EMULATED,)))
@pytest.mark.parametrize("missing", [0, 1, 10**9])
def test_more_runs_than_there_was_room_for_named(missing, column):
    """With room for all, for all but one, and for none: then they are found once more."""
    check = (torch.arange(40)[:, None] + torch.arange(50)) % 2 == 0
    total = int(check.sum())
    masks, logits = check[None], torch.where(check, 1.0, -1.0)[None]
    room = max(total - missing, 0)
    assert strings(operators.encode(masks, room=room)) == coco_strings(masks)
    assert strings(operators.encode_logits(logits, (40, 50), room=room)) == coco_strings(masks)
    inputs = torch.ones(1, 1), logits, torch.tensor([[0.0, 0, 50, 40]])  # the box is the image
    assert strings(operators.encode_prototypes(*inputs, (40, 50), room=room)) == coco_strings(masks)


@pytest.mark.parametrize("column", columns("encode_logits", ON_GPU))
def test_more_runs_than_the_operators_expect(column):
    """Chequered: a run on every second pixel, where there is room for 75 a mask."""
    check = (torch.arange(80)[:, None] + torch.arange(300)) % 2 == 0
    logits = torch.where(check, 1.0, -1.0)[None]
    assert int(check.sum()) > 10_000
    assert strings(column.call("encode_logits", logits, (80, 300))) == coco_strings(check[None])
    assert strings(column.call("encode", check[None])) == coco_strings(check[None])


@pytest.mark.parametrize("column", columns("encode_logits", (EMULATED,)))
def test_order_of_threads_does_not_matter(column):
    logits, inputs, masks = draw(3, (14, 20)), draw_prototypes(4, (14, 20), (60, 200)), draw_bitmaps("two_words")
    want = wanted(logits, (60, 200)), wanted_of(inputs, (60, 200)), coco_strings(masks)
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        found = (
            operators.encode_logits(logits, (60, 200)),
            operators.encode_prototypes(*inputs, (60, 200)),
            operators.encode(masks),
        )
        assert tuple(map(strings, found)) == want
        assert torch.equal(operators.decode(found[2]), masks)


sizes, images = (st.tuples(st.integers(1, most), st.integers(1, most)) for most in (24, 90))
ends = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: abs(pair[0] - pair[1]) > 1e-3)


@pytest.mark.parametrize("column", columns("encode_logits", (EMULATED,)))
@settings(max_examples=emulator.examples(150), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(size=sizes, image=images, across=ends, down=ends, seed=st.integers(0, 999), kind=st.sampled_from(KINDS),
       threshold=st.sampled_from([0.0, 0.5, -0.3]), cut=st.sampled_from(["before", "after"]))  # fmt: skip
def test_drawn(column, size, image, across, down, seed, kind, threshold, cut):
    emulator.set_seed(seed % 4)
    crop = (min(across) * size[1], min(down) * size[0], max(across) * size[1], max(down) * size[0])
    logits = draw(2, size, kind, threshold, seed)
    found = operators.encode_logits(logits, image, threshold, crop)
    assert strings(found) == wanted(logits, image, threshold, crop)
    inputs = draw_prototypes(2, size, image, 3, seed)
    found = operators.encode_prototypes(*inputs, image, threshold, crop, cut)
    assert strings(found) == wanted_of(inputs, image, threshold, crop, cut)
    masks = torch.rand(2, *image, generator=torch.Generator().manual_seed(seed)) < seed / 999
    rles = operators.encode(masks)
    assert strings(rles) == coco_strings(masks) and torch.equal(operators.decode(rles), masks)
