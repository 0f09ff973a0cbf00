"""crop, resize, flip and shift, backend x named case: what torch does with the decoded masks, encoded again."""

import pytest
import torch
from torch.nn import functional as F

from htc_fast import ops
from htc_fast.ops import _rle
from tests.ops.backends import CPP, ON_CPU, cases, columns
from tests.ops.rle_cases import CASES, coco, draw, drawn

SOME = [name for name in CASES if name not in ("many", "no_rows", "no_columns")]


def placed(masks, dx: int, dy: int, height: int, width: int):
    """The masks on a canvas so large that everything fits, and the window of it."""
    room = 250
    canvas = F.pad(masks, (room,) * 4)
    return canvas[:, room - dy : room - dy + height, room - dx : room - dx + width]


def check(column, masks, image_size, dx: int, dy: int) -> None:
    rles, (height, width) = coco(masks), masks.shape[1:]
    assert column.call("flip", rles) == coco(masks.flip(2))
    assert column.call("flip", rles, horizontal=False) == coco(masks.flip(1))
    if len(masks):
        resized = F.interpolate(masks[None].float(), size=image_size, mode="nearest-exact")[0]
        assert column.call("resize", rles, image_size) == coco(resized)
    assert column.call("shift", rles, dx, dy) == coco(placed(masks, dx, dy, height, width))
    assert column.call("shift", rles, dx, dy, image_size) == coco(placed(masks, dx, dy, *image_size))
    box = (-dx, -dy, image_size[1] - dx, image_size[0] - dy)
    assert column.call("crop", rles, box) == coco(placed(masks, dx, dy, *image_size))


@pytest.mark.parametrize("image_size, dx, dy", [((50, 130), -9, 4), ((140, 33), 12, -7), ((1, 1), 0, 0)])
@pytest.mark.parametrize("name, column", cases("resize", SOME, ON_CPU))
def test_named(name, column, image_size, dx, dy):
    check(column, draw(*CASES[name]), image_size, dx, dy)


@pytest.mark.parametrize("column", columns("resize", (CPP,)))
@drawn(200)
def test_drawn(column, height, width, kind, seed):
    masks = draw(2, height, width, kind, seed)
    check(column, masks, (seed % 131 + 1, seed % 97 + 1), seed % 149 - 70, seed % 113 - 50)


@pytest.mark.parametrize("column", columns("resize", ON_CPU))
@pytest.mark.parametrize("old, new", [(160, 46), (46, 160), (150, 44), (98, 28)])
def test_centres_that_lie_on_an_edge(old, new, column):
    masks = draw(2, old, 1, "noise", 3)
    resized = F.interpolate(masks[None].float(), size=(new, 9), mode="nearest-exact")[0]
    assert column.call("resize", coco(masks), (new, 9)) == coco(resized)
    turned = F.interpolate(masks.transpose(1, 2)[None].float(), size=(9, new), mode="nearest-exact")[0]
    assert column.call("resize", coco(masks.transpose(1, 2)), (9, new)) == coco(turned)


@pytest.mark.parametrize("column", columns("resize", ON_CPU))
def test_there_and_back(column):
    rles = coco(draw(3, 67, 90, "noise"))
    for call in (
        lambda some: column.call("flip", column.call("flip", some)),
        lambda some: column.call("flip", column.call("flip", some, False), False),
        lambda some: column.call("resize", column.call("resize", some, (134, 270)), (67, 90)),
        lambda some: column.call("crop", column.call("shift", some, 5, 6, (80, 99)), (5, 6, 95, 73)),
    ):
        assert call(rles) == rles


@pytest.mark.parametrize("column", columns("resize", ON_CPU))
def test_one_dict_alone_and_none(column):
    masks = draw(1, 60, 70, "disc")
    assert column.call("flip", coco(masks)[0]) == coco(masks.flip(2))[0]
    assert column.call("crop", coco(masks)[0], (3, 4, 50, 40)) == coco(masks[:, 4:40, 3:50])[0]
    assert column.call("resize", [], (3, 4)) == column.call("shift", [], 1, 1) == []


@pytest.mark.parametrize("column", columns("resize", ON_CPU))
def test_masks_of_different_sizes(column):
    sizes = [(30, 40), (50, 20), (30, 40), (1, 9)]
    masks = [draw(1, *size, "noise", seed) for seed, size in enumerate(sizes)]
    rles = [coco(one)[0] for one in masks]
    assert column.call("flip", rles, False) == [coco(one.flip(1))[0] for one in masks]
    assert {tuple(one["size"]) for one in column.call("crop", rles, (2, 2, 9, 13))} == {(11, 7)}


@pytest.mark.parametrize("column", columns("resize", ON_CPU))
def test_windows_without_pixels_and_outside(column):
    rles = coco(draw(2, 30, 40, "ones"))
    assert column.call("crop", rles, (5, 5, 5, 20)) == [{"size": [15, 0], "counts": b"0"}] * 2
    outside = coco(torch.zeros(2, 10, 20))
    assert column.call("crop", rles, (100, 7, 120, 17)) == column.call("crop", rles, (-90, 7, -70, 17)) == outside
    assert column.call("shift", rles, 10**9, -(10**9)) == coco(torch.zeros(2, 30, 40))


def test_huge_images():
    side = 20_000
    rles = [{"size": (side, side), "counts": [side * 100 + 50, side * 200, side * (side - 300) - 50]}] * 20
    halved = ops.resize(rles, (side // 2, side // 2))
    assert ops.rle_to_box(halved[0]).tolist() == [50, 0, 150, 10_000]
    assert ops.rle_to_box(ops.flip(rles)[0]).tolist() == [19_699, 0, 19_900, 20_000]
    assert ops.rle_area(ops.crop(rles, (100, 0, 200, side))).tolist() == [side * 100 - 50] * 20
    assert ops.rle_area(ops.shift(rles, side - 101, 0)).tolist() == [side - 50] * 20


def test_opcheck():
    runs, offsets, _ = _rle.read("rles", coco(draw(3, 20, 30, "noise")))
    given = (runs, offsets, torch.arange(30), torch.arange(21), 30, 20)
    torch.library.opcheck(torch.ops.htc_fast.transform_runs.default, given)


ONE = {"size": [4, 5], "counts": [3, 4, 13]}


@pytest.mark.parametrize(
    "call, error, said",
    [
        (lambda: ops.crop([ONE], (3, 0, 2, 4)), ValueError, "x1 <= x2"),
        (lambda: ops.crop([ONE], (0, 0, 2)), ValueError, "4 whole numbers"),
        (lambda: ops.crop([ONE], (0, 0, 2.5, 3)), TypeError, "box must be whole numbers"),
        (lambda: ops.crop([ONE], (0, 0, float("nan"), 3)), TypeError, "box must be whole numbers"),
        (lambda: ops.resize([ONE], (0, 3)), ValueError, "image_size must have at least one pixel"),
        (lambda: ops.resize([ONE], 7), ValueError, "image_size must be height, width"),
        (lambda: ops.resize({"size": [0, 5], "counts": [0]}, (2, 3)), ValueError, "rles must have pixels"),
        (lambda: ops.shift([ONE], 1.5, 0), TypeError, "dx, dy must be whole numbers"),
        (lambda: ops.shift([ONE], 2**40, 0), ValueError, "below 2"),
        (lambda: ops.flip([ONE], "left"), TypeError, "horizontal must be True or False"),
        (lambda: ops.flip("abc"), TypeError, "rles must be a list"),
    ],
)
def test_errors(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_windows_that_no_memory_holds():
    (rle,) = coco(draw(1, 5, 6, "noise"))
    for call in (
        lambda: ops.crop(rle, (-(10**9), 0, 10**9, 5)),
        lambda: ops.resize(rle, (1, 10**9)),
        lambda: ops.shift(rle, 0, 0, (10**9, 1)),
    ):
        with pytest.raises(ValueError, match=r"must have at most \d+ rows and columns"):
            call()
