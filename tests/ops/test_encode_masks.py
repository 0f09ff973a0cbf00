"""encode_masks, backend x named case: the strings that the reference and pycocotools make of the pasted masks."""

import pytest
import torch
from pycocotools import mask as coco_mask

from htc_fast import ops
from tests.ops.backends import CPP, CUDA, EMULATED, NATIVE, REFERENCE, cases, columns, emulated_only, watched_only
from tests.ops.mask_cases import CASES, EMPTY, KINDS, THRESHOLDS, coco_strings, draw, drawn, errors, strange
from tests.simt import emulator, operators

OPERATOR = "encode_masks"
BUT_REFERENCE = (CPP, EMULATED, CUDA)
WATCHED = emulated_only(
    CASES,
    asan="usual one_cell flat_masks tall_masks wide_image tall_image one_pixel no_masks no_pixels no_columns many",
    race="usual flat_masks many tall_image",
)


def check(column, masks, boxes, image, threshold: float = 0.5) -> None:
    found = column.call(OPERATOR, masks, boxes, image, threshold)
    assert [one["counts"] for one in found] == coco_strings(
        REFERENCE.call("paste_masks", masks, boxes, image, threshold)
    )
    assert all(one["size"] == list(image) for one in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, NATIVE, watched_only(WATCHED)))
def test_named(name, column, kind):
    check(column, *draw(*CASES[name], kind=kind), CASES[name][2])


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_thresholds(threshold, column):
    check(column, *draw(3, (14, 20), (40, 50), 1, "noise"), (40, 50), threshold)


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
@pytest.mark.parametrize("masks", ["ones", "nan"])
def test_strange_boxes(masks, column):
    check(column, *strange(masks), (30, 40))


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_boxes_without_pixels_are_empty(column):
    found = column.call(OPERATOR, torch.ones(len(EMPTY), 14, 20), torch.tensor(EMPTY), (30, 40))
    assert {one["counts"] for one in found} == {coco_strings(torch.zeros(1, 30, 40))[0]}


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_round_trip(column):
    masks, boxes = torch.ones(2, 28, 28), torch.tensor([[-400.0, -300, 500, 400], [10, 5, 20, 25]])
    decoded = torch.from_numpy(coco_mask.decode(column.call(OPERATOR, masks, boxes, (37, 53)))).permute(2, 0, 1)
    assert torch.equal(decoded.bool(), ops.paste_masks(masks, boxes, (37, 53)))


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_runs_join_between_columns(column):
    """A mask as tall as the image: its columns touch, and COCO counts them as one run."""
    masks, boxes = torch.ones(1, 28, 28), torch.tensor([[4.0, -9, 21, 40]])
    (runs,) = operators.runs_of_masks(masks, boxes, (30, 40))
    assert len(runs) == 17
    check(column, masks, boxes, (30, 40))


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
@pytest.mark.parametrize("missing", [0, 1, 10**9])
def test_more_runs_than_there_was_room_for_named(missing, column):
    """With room for all, for all but one, and for none: then they are found once more."""
    masks, boxes = draw(5, (14, 20), (60, 300), 3, "noise")
    total = sum(map(len, operators.runs_of_masks(masks, boxes, (60, 300))))
    found = operators.encode_masks(masks, boxes, (60, 300), room=max(total - missing, 0))
    assert total > 1000
    assert [one["counts"] for one in found] == coco_strings(REFERENCE.call("paste_masks", masks, boxes, (60, 300), 0.5))


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_more_runs_than_the_operator_expects(column):
    """A chequered mask over the whole image: sixteen runs in every column."""
    masks = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).float()[None]
    boxes = torch.tensor([[0.0, 0, 300, 200]])
    (runs,) = operators.runs_of_masks(masks, boxes, (200, 300))
    assert len(runs) > 3000  # and room for 75
    check(column, masks, boxes, (200, 300))


@pytest.mark.parametrize("column", columns(OPERATOR, NATIVE))
def test_nothing_to_do(column):
    assert column.call(OPERATOR, *draw(0), (9, 7)) == []


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_order_of_threads_does_not_matter(column):
    problem, results = draw(3, (28, 28), (60, 200), 2), []
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        results.append(torch.cat(operators.runs_of_masks(*problem, (60, 200))))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED)))
@drawn
def test_drawn(column, size, image, seed, threshold, kind):
    if column == EMULATED:
        emulator.set_seed(seed % 4)
    check(column, *draw(3, size, image, seed, kind), image, threshold)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    masks, boxes = draw(6)
    want = ops.encode_masks(masks.to(dtype).float(), boxes, (120, 170))
    assert ops.encode_masks(masks.to(dtype), boxes, (120, 170)) == want


def test_strides():
    masks, boxes = draw(6)
    strided = masks.transpose(1, 2).contiguous().transpose(1, 2)
    assert ops.encode_masks(strided, boxes, (120, 170)) == ops.encode_masks(masks, boxes, (120, 170))


def test_more_pixels_than_32_bits_count():
    # 90 masks of 24 million pixels: encoding needs none of them in memory.
    masks, boxes = draw(90, image=(200, 300))
    areas = coco_mask.area(ops.encode_masks(masks, boxes * 20, (4000, 6000)))
    assert len(areas) == 90 and areas.max() > 1_000_000


def test_opcheck():
    masks, boxes = draw(5)
    torch.library.opcheck(torch.ops.htc_fast.encode_masks.default, (masks, boxes, 40, 60, 0.5))


@pytest.mark.parametrize(
    "call, error, said", errors(ops.encode_masks), ids=lambda one: one if isinstance(one, str) else ""
)
def test_errors(call, error, said):
    with pytest.raises(error, match=said):
        call()
