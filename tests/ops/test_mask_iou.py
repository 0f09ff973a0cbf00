"""mask_iou, backend x named case: pycocotools' numbers to the last bit, of whole masks and of run lengths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from htc_fast import ops
from htc_fast.ops import _rle
from tests.ops.backends import (
    CPP,
    CUDA,
    EMULATED,
    NATIVE,
    ON_CPU,
    REFERENCE,
    cases,
    columns,
    emulated_only,
    watched_only,
)
from tests.ops.pair_cases import CASES, coco_iou, disc, draw, rles_of
from tests.simt import emulator, operators

OPERATOR = "mask_iou"
WATCHED = emulated_only(
    CASES,
    asan="usual many large one_pixel one_row one_column whole_words none_of_a none_of_b none no_pixels",
    race="usual many large",
)


def pair(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    case = CASES[name]
    return draw(case.a, case.size, case.kind), draw(case.b, case.size, case.kind, seed=1)


@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, NATIVE, watched_only(WATCHED)))
def test_whole_masks_named(name, column):
    a, b = pair(name)
    crowd = torch.arange(len(b)) % 3 == 1
    for given_crowd in (None, crowd):
        found = column.call(OPERATOR, a, b, given_crowd)
        assert found.dtype == torch.float64 and torch.equal(found, coco_iou(rles_of(a), rles_of(b), given_crowd))


@pytest.mark.parametrize("name, column", cases(OPERATOR, CASES, ON_CPU))
def test_run_lengths_named(name, column):
    a, b = (rles_of(one) for one in pair(name))
    crowd = torch.arange(len(b)) % 3 == 1
    for given_crowd in (None, crowd):
        found = column.call(OPERATOR, a, b, given_crowd)
        assert found.dtype == torch.float64 and torch.equal(found, coco_iou(a, b, given_crowd))


@pytest.mark.parametrize("column", columns(OPERATOR, ON_CPU))
def test_by_hand(column):
    a = [{"size": [4, 4], "counts": [0, 6, 10]}, {"size": [4, 4], "counts": [16]}]
    b = [{"size": [4, 4], "counts": [4, 4, 8]}, {"size": [4, 4], "counts": [0, 16]}]
    assert column.call(OPERATOR, a, b).tolist() == [[2 / 8, 6 / 16], [0, 0]]
    assert column.call(OPERATOR, a, b, [True, True]).tolist() == [[2 / 6, 1], [0, 0]]
    assert column.call(OPERATOR, a[0], b[0]).tolist() == [[0.25]]


run_lists = st.lists(st.integers(0, 40), min_size=1, max_size=40)


@given(st.integers(1, 30), st.lists(run_lists, min_size=1, max_size=4), st.lists(run_lists, min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_drawn_runs(height, first, second):
    """Any run lengths, empty ones among them, in an image that holds the longest."""
    width = max(map(sum, first + second)) // height + 1
    a, b = (
        [{"size": [height, width], "counts": [*one, *[0] * (len(one) % 2), height * width - sum(one)]} for one in some]
        for some in (first, second)
    )
    wanted = coco_iou(*(_rle.write(_rle.read("masks", some)) for some in (a, b)))  # without the empty ones
    assert torch.equal(CPP.call(OPERATOR, a, b), wanted) and torch.equal(REFERENCE.call(OPERATOR, a, b), wanted)


@pytest.mark.parametrize("column", columns(OPERATOR, ON_CPU))
def test_empty_runs_end_nothing(column):
    """pycocotools stops where both have an empty run at once, and says 1 / 14; they are masks all the same."""
    a, b = {"size": [1, 16], "counts": [0, 1, 13, 0, 2]}, {"size": [1, 16], "counts": [0, 14, 0, 1, 1]}
    assert coco_iou(*([coco_mask.frPyObjects(one, 1, 16)] for one in (a, b))).tolist() == [[1 / 14]]
    assert column.call(OPERATOR, a, b).tolist() == [[1 / 15]]


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED)))
@given(st.integers(0, 6), st.integers(0, 40), st.integers(1, 40), st.integers(1, 70), st.integers(0, 2**20))
@settings(max_examples=emulator.examples(60), deadline=None)
def test_drawn_masks(column, a, b, height, width, seed):
    if column == EMULATED:
        emulator.set_seed(seed % 4)
    first, second = draw(a, (height, width), seed=seed), draw(b, (height, width), seed=seed + 1)
    assert torch.equal(column.call(OPERATOR, first, second), coco_iou(rles_of(first), rles_of(second)))


@pytest.mark.parametrize("kind", ["noise", "boxes"])
def test_long_beside_short(kind):
    """A mask of many runs beside one of a few: those are looked for in leaps."""
    size = (300, 400)
    long, short = rles_of(draw(3, size, "noise")), rles_of(draw(6, size, kind if kind == "boxes" else "full"))
    assert torch.equal(ops.mask_iou(long, short), coco_iou(long, short))
    assert torch.equal(ops.mask_iou(short, long), coco_iou(short, long))


def test_every_count_of_runs_in_a_column():
    """Up to eight layers are compared column by column, more are walked."""
    y, x = torch.arange(64)[:, None], torch.arange(50)
    masks = torch.stack([(y % (64 // n) < 64 // n // 2) & (x >= n) & (x < 45 - n) for n in range(1, 13)])
    for found in (ops.mask_iou(rles_of(masks), rles_of(masks.flip(1))), ops.mask_iou(masks, masks.flip(1))):
        assert torch.equal(found, coco_iou(rles_of(masks), rles_of(masks.flip(1))))


@pytest.mark.parametrize("side", [20_000, 70_000])
def test_huge_images(side):
    """400 million pixels, and more than 32 bits count."""
    rles = []
    for start in (side * 100, side * 200 + 4_000):  # 5 000 columns of 9 000 rows
        counts = [start, *[9_000, side - 9_000] * 4_999, 9_000]
        rles.append({"size": [side, side], "counts": [*counts, side * side - sum(counts)]})
    rles.append({"size": [side, side], "counts": [0, side * side]})
    area = 9_000 * 5_000
    shared = (9_000 - 4_000) * 4_900
    wanted = [[1, shared / (2 * area - shared), area / side**2], [shared / (2 * area - shared), 1, area / side**2]]
    found = ops.mask_iou(rles[:2], rles)
    assert found.tolist() == wanted
    assert torch.equal(REFERENCE.call(OPERATOR, rles[:2], rles), found)


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_order_of_threads_does_not_matter(column):
    a, b = pair("many")
    found = []
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        found.append(column.call(OPERATOR, a, b))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED)))
def test_many_words_in_slices(column):
    """More words than one block of a GPU takes, and masks that do not begin on whole words of memory."""
    masks = draw(4, (401, 703), "blobs")
    assert torch.equal(column.call(OPERATOR, masks[1:], masks), coco_iou(rles_of(masks[1:]), rles_of(masks)))
    if column == EMULATED:
        shared, _, areas = operators.mask_counts(masks, masks)
        assert torch.equal(shared.diagonal(), areas) and torch.equal(areas, masks.sum(dim=(1, 2)))


def test_numpy_in_numpy_out():
    a, b = pair("usual")
    wanted = ops.mask_iou(a, b).numpy()
    found = ops.mask_iou(a.numpy(), b.numpy())
    assert isinstance(found, np.ndarray) and np.array_equal(found, wanted)
    strided, fixed = np.asfortranarray(a.numpy()), b.numpy().astype(np.uint8) * 200
    fixed.flags.writeable = False
    assert np.array_equal(ops.mask_iou(strided, fixed, np.zeros(len(b), bool)), wanted)
    assert isinstance(ops.mask_iou(rles_of(a), rles_of(b), np.zeros(len(b), bool)), np.ndarray)


def test_other_types_and_strides():
    a, b = pair("blobs")
    wanted = ops.mask_iou(a, b)
    assert torch.equal(ops.mask_iou(a.int() * -3, b.to(torch.uint8) * 256 + b, [0] * len(b)), wanted)
    strided = a.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous() and torch.equal(
        ops.mask_iou(strided, b.repeat(1, 1, 2)[:, :, : b.shape[2]]), wanted
    )


def test_forms_of_run_lengths():
    a = rles_of(draw(5, (20, 30)))
    other = [{"size": (20, 30), "counts": one["counts"].decode()} for one in a]
    assert torch.equal(ops.mask_iou(other, tuple(a)), coco_iou(a, a))


def test_discs_by_both_ways():
    masks = torch.stack([disc((90, 120), 30 + 5 * i, 40 + 7 * i, 20 + i) for i in range(6)])
    assert torch.equal(ops.mask_iou(masks, masks), ops.mask_iou(rles_of(masks), rles_of(masks)))
    assert ops.mask_iou(masks, masks).count_nonzero() > 20


def test_opcheck_compile_and_export():
    a, b = pair("usual")
    torch.library.opcheck(torch.ops.htc_fast.mask_iou.default, (a, b))
    first, second = _rle.read("a", rles_of(a)), _rle.read("b", rles_of(b))
    torch.library.opcheck(torch.ops.htc_fast.rle_iou.default, (*first, *second, torch.zeros(len(b), dtype=torch.bool)))
    wanted = ops.mask_iou(a, b)
    assert torch.equal(torch.compile(ops.mask_iou, backend="eager", fullgraph=True)(a, b), wanted)

    class Module(torch.nn.Module):
        def forward(self, a, b):
            return ops.mask_iou(a, b)

    assert torch.equal(torch.export.export(Module(), (a, b)).module()(a, b), wanted)


@pytest.mark.parametrize("column", columns(OPERATOR, (CUDA,)))
def test_captured_in_a_graph(column):
    a, b = column.give(pair("many"))
    ops.mask_iou(a, b)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = ops.mask_iou(a, b)
    a.logical_not_()
    graph.replay()
    assert torch.equal(found, ops.mask_iou(a, b))


MASKS, RLE = torch.zeros(2, 4, 5, dtype=torch.bool), {"size": [4, 5], "counts": [20]}
WRONG = [
    ((MASKS, [RLE]), TypeError, "a and b must both be RLE dicts or both be masks"),
    ((MASKS, MASKS[:, :3]), ValueError, r"of one size, but those of a are \[4, 5\] and those of b \[3, 5\]"),
    (([RLE], [{"size": [5, 4], "counts": [20]}]), ValueError, r"those of a are \[4, 5\] and those of b \[5, 4\]"),
    (([RLE, {"size": [5, 4], "counts": [20]}], []), ValueError, r"but a\[0\] is \[4, 5\] and a\[1\] \[5, 4\]"),
    ((MASKS.float(), MASKS), TypeError, "a must be bool, got torch.float32: compare them with a threshold"),
    ((MASKS.numpy().astype("U1"), MASKS), TypeError, "a must be bool, got an array of"),
    ((MASKS[0], MASKS), ValueError, r"a must be \[K, H, W\], got \[4, 5\]"),
    (("abc", MASKS), TypeError, "a must be COCO RLE dicts or masks"),
    ((MASKS, MASKS, [True]), ValueError, r"crowd must be \[2\], one for each of b, got \[1\]"),
    ((MASKS, MASKS, [0.5, 1.0]), TypeError, "crowd must be bool, got torch.float32"),
    ((MASKS, MASKS, ["a", "b"]), TypeError, "crowd must be numbers"),
    ((MASKS, MASKS.to("meta")), ValueError, "b must be on cpu like a"),
]


@pytest.mark.parametrize("given, error, said", WRONG, ids=lambda one: one if isinstance(one, str) else "")
def test_errors(given, error, said):
    with pytest.raises(error, match=said):
        ops.mask_iou(*given)
