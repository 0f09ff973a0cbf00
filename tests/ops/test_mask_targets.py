"""mask_targets, backend x named case: the goals that RoIAlign gives bitmaps, bit for bit, without the bitmaps."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.criterion.losses import mask_targets as from_bitmaps
from htc_fast.ops.triton import mask_targets as by_triton
from tests.ops.backends import (
    ALL,
    CPP,
    CUDA,
    EMULATED,
    INTERPRETED,
    NATIVE,
    REFERENCE,
    TRITON,
    cases,
    columns,
    emulated_only,
    watched_only,
)
from tests.simt import emulator

OPERATOR = "mask_targets"
NAN, INF = float("nan"), float("inf")
STRANGE = [[NAN, 0, 10, 10], [0, 0, INF, 10], [5, 5, 5, 20], [20, 5, 10, 20], [300, 5, 320, 20], [-9, -9, -1, -1],
           [-400, -300, 500, 400], [3.1, 3.1, 3.2, 9]]  # fmt: skip
GIGANTIC = [[-1e30, -1e30, 1e30, 1e30], [-1e38, 2, 1e38, 9], [2, -1e9, 9, 3e9], [-5e6, -5e6, 7e6, 7e6]]


@dataclass(frozen=True)
class Case:
    """coarse: pixels of the squares that objects are made of; snap: boxes lie on multiples of it, 0: anywhere."""

    count: int = 12
    images: int = 2
    layers: int = 3
    size: tuple[int, int] = (45, 61)
    bins: int = 28
    dtype: torch.dtype = torch.int16
    coarse: int = 5
    snap: float = 0.0
    strange: bool = False


CASES = {
    "usual": Case(),
    "int32": Case(dtype=torch.int32),
    "whole_boxes": Case(snap=1.0, coarse=4),
    "half_boxes": Case(snap=0.5, coarse=3, dtype=torch.int32),
    "few_bins": Case(bins=5),
    "many_bins": Case(bins=35, count=4),
    "one_bin": Case(bins=1),
    "wide_bins": Case(bins=2, size=(20, 300), count=5, dtype=torch.int32),
    "strange": Case(count=len(STRANGE), strange=True),
    "one_pixel": Case(size=(1, 1)),
    "one_line": Case(size=(1, 70), images=1, layers=1),
    "one_column": Case(size=(70, 1), coarse=9),
    "no_rois": Case(count=0),
    "no_pixels": Case(size=(0, 9)),
    "large": Case(size=(260, 400), count=20, coarse=23, snap=1.0),
}
WATCHED = emulated_only(
    CASES,
    asan="usual int32 few_bins many_bins wide_bins strange one_pixel one_line one_column no_rois",
    race="usual int32 many_bins wide_bins",
)
PER_LAYER = 4


class Inputs:
    """Layers, RoIs, and for each its object's row, layer and number; the same objects as bitmaps [N, G, H, W]."""

    def __init__(self, case: Case, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        (height, width), draw = case.size, lambda *shape: torch.rand(*shape, generator=generator)
        cells = (draw(case.images, case.layers, height // case.coarse + 1, width // case.coarse + 1) * 5).int()
        maps = cells.repeat_interleave(case.coarse, 2).repeat_interleave(case.coarse, 3)[:, :, :height, :width]
        base = torch.arange(case.layers, dtype=torch.int32)[:, None, None] * PER_LAYER
        self.layers = torch.where(maps > 0, maps + base, 0).to(case.dtype)
        objects = case.layers * PER_LAYER
        self.bitmaps = torch.stack([(self.layers == g + 1).any(1) for g in range(objects)], dim=1).byte()
        reach = torch.tensor([width, height])
        corner, extent = (draw(case.count, 2) * 1.4 - 0.3) * reach, draw(case.count, 2) ** 2 * 1.5 * reach
        boxes = torch.cat([corner, corner + extent], dim=1)
        if case.snap:
            boxes = (boxes / case.snap).round() * case.snap
        if case.strange:
            boxes = torch.tensor(STRANGE)
        image = (draw(case.count) * case.images).long()
        self.row = (draw(case.count) * objects).long()
        self.bitmap = image * objects + self.row
        self.rois = torch.cat([image[:, None], boxes], dim=1)
        self.given = self.layers, self.rois, self.row // PER_LAYER, self.row + 1, case.bins


def means(inputs: Inputs) -> Tensor:
    """What is compared with one half, by torch's own sums."""
    maps = inputs.bitmaps.flatten(0, 1)[inputs.bitmap][:, None].float()
    rois = torch.cat([torch.arange(len(maps))[:, None], inputs.rois[:, 1:]], dim=1)
    return REFERENCE.call("roi_align", maps, rois, inputs.given[-1], 1.0, 0, True)[:, 0]


@pytest.mark.parametrize(
    "name, column", cases(OPERATOR, CASES, ALL, watched_only(WATCHED), quick=("no_rois", "no_pixels"))
)
def test_named(name, column):
    case = CASES[name]
    if column == INTERPRETED:
        # 30 ms a program of 8 bins, more in large boxes: few of them, each a whole program and a part of one a row.
        few = case.count if case.strange else min(case.count, 4)
        case = replace(case, size=(min(case.size[0], 150), min(case.size[1], 150)), bins=min(case.bins, 9), count=few)
    inputs, bins = Inputs(case), case.bins
    goals = column.call(OPERATOR, *inputs.given)
    assert goals.shape == (case.count, bins, bins) and goals.dtype == torch.float32
    assert ((goals == 0) | (goals == 1)).all()
    if goals.numel() and inputs.layers.numel():
        mean = means(inputs)
        clear = (mean - 0.5).abs() > 1e-5  # on which side a half falls is a matter of rounding
        assert clear.float().mean() > 0.9 and torch.equal(goals[clear], (mean >= 0.5).float()[clear])
    if column in (CPP, EMULATED, CUDA):
        assert torch.equal(goals, CPP.call(OPERATOR, *inputs.given))


def test_bitmaps_give_the_same_goals_bit_for_bit():
    wrong = halves = ones = 0
    for seed in range(120):
        size = (seed * 37 % 150 + 1, seed * 53 % 170 + 1)
        case = Case(40, size=size, coarse=seed % 7 + 1, snap=(0.0, 1.0, 0.5)[seed % 3])
        inputs = Inputs(case, seed)
        layers, rois, layer, number, _ = inputs.given
        goals = ops.mask_targets(layers, rois, layer, number)
        wrong += int((goals != from_bitmaps(inputs.bitmaps, rois[:, 1:], inputs.bitmap)).sum())
        halves += int(((means(Inputs(case, seed)) - 0.5).abs() < 1e-6).sum()) if seed < 9 else 0
        ones += int(goals.sum())
    assert wrong == 0 and halves > 100 and ones > 1000


@pytest.mark.parametrize("column", columns(OPERATOR))
def test_a_square_by_hand(column):
    layers = torch.zeros(1, 2, 8, 8, dtype=torch.int16)
    layers[0, 1, 2:6, 3:7] = 300
    layers[0, 0, 2:6, 3:7] = 2
    rois = torch.tensor([[0.0, 1, 0, 9, 8], [0, 1, 0, 9, 8], [0, 1, 0, 9, 8], [0, 1, 0, 9, 8]])
    layer, number = torch.tensor([1, 0, 1, 1]), torch.tensor([300, 300, 2, 0])
    goals = column.call(OPERATOR, layers, rois, layer, number, 8)
    wanted = torch.zeros(8, 8)
    wanted[2:6, 2:6] = 1
    assert torch.equal(goals[0], wanted) and not goals[1:].any()


@pytest.mark.parametrize("column", columns(OPERATOR, (*NATIVE, TRITON)))
def test_numbers_that_no_pixel_has(column):
    layers = torch.zeros(1, 1, 6, 6, dtype=torch.int16)
    layers[..., 3:] = -5
    number = torch.tensor([0, -5, 70000, 65536, 2**40])
    rois = torch.tensor([[0.0, 0, 0, 6, 6]]).repeat(5, 1)
    assert not column.call(OPERATOR, layers, rois, number * 0, number, 4).any()


@pytest.mark.parametrize("column", columns(OPERATOR, (CPP, EMULATED)))
def test_gigantic_boxes(column):
    inputs = Inputs(Case(len(GIGANTIC), images=1, coarse=45))
    rois = torch.cat([torch.zeros(len(GIGANTIC), 1), torch.tensor(GIGANTIC)], dim=1)
    layers, _, layer, number, size = inputs.given
    wanted = from_bitmaps(inputs.bitmaps, rois[:, 1:], inputs.row)
    assert torch.equal(column.call(OPERATOR, layers, rois, layer, number, size), wanted)


@pytest.mark.parametrize("column", columns(OPERATOR, (EMULATED,)))
def test_order_of_threads_does_not_matter(column):
    inputs, found = Inputs(CASES["usual"]), []
    for seed in (0, 1, 2):
        emulator.set_seed(seed)
        found.append(column.call(OPERATOR, *inputs.given))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("place", ["image", "layer"])
@pytest.mark.parametrize("column", columns(OPERATOR, (REFERENCE, CPP)))
def test_what_is_not_there_is_told(column, place):
    layers, rois, layer, number, size = Inputs(CASES["usual"]).given
    rois[7, 0], layer[7] = (2, layer[7]) if place == "image" else (rois[7, 0], 3)
    with pytest.raises(RuntimeError, match=r"^mask_targets: rois\[7\] names image \d and layer \d, but there are 2 im"):
        column.call(OPERATOR, layers, rois, layer, number, size)


def test_other_types_and_strides():
    layers, rois, layer, number, size = Inputs(CASES["whole_boxes"]).given
    wanted = ops.mask_targets(layers, rois, layer, number, size)
    strided = layers.transpose(2, 3).contiguous().transpose(2, 3)
    other = strided, rois.repeat(1, 2)[:, :5].double(), layer.int(), number.to(torch.int16), size
    assert not strided.is_contiguous() and torch.equal(ops.mask_targets(*other), wanted)
    assert torch.equal(ops.mask_targets(layers, rois.half(), layer, number, size), wanted)


def test_some_bitmaps_at_a_time(monkeypatch):
    """What a GPU without the native library runs, with another operator's kernel in Triton's place."""
    inputs = Inputs(CASES["whole_boxes"])
    calls = []

    def pooled(maps, boxes, height, width, scales, ratio, aligned, *rest):
        calls.append(len(boxes))
        return ops.roi_align(maps[0], boxes, (height, width), scales[0], ratio, aligned)

    monkeypatch.setattr(by_triton, "multi_level_roi_align", pooled)
    monkeypatch.setattr(by_triton, "PIXELS", 45 * 61 * 5)
    assert torch.equal(by_triton.mask_targets(*inputs.given), ops.mask_targets(*inputs.given)) and calls == [5, 5, 2]


def test_opcheck_compile_and_no_gradient():
    layers, rois, layer, number, size = Inputs(CASES["few_bins"]).given
    torch.library.opcheck(torch.ops.htc_fast.mask_targets.default, (layers, rois, layer, number, size))
    wanted = ops.mask_targets(layers, rois, layer, number, size)
    compiled = torch.compile(lambda *given: ops.mask_targets(*given, size), backend="eager", fullgraph=True)
    assert torch.equal(compiled(layers, rois, layer, number), wanted)
    assert not ops.mask_targets(layers, rois.requires_grad_(), layer, number, size).requires_grad


@pytest.mark.parametrize("column", columns(OPERATOR, (CUDA, TRITON)))
def test_captured_in_a_graph(column):
    layers, rois, layer, number, size = column.give(Inputs(CASES["large"]).given)
    with ops.use_backend(column.backend):
        ops.mask_targets(layers, rois, layer, number, size)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = ops.mask_targets(layers, rois, layer, number, size)
        rois[:, 1:].add_(4)
        graph.replay()
        assert torch.equal(found, ops.mask_targets(layers, rois, layer, number, size))


WRONG = [
    ({"layers": torch.zeros(1, 1, 4, 4)}, TypeError, "layers must be int16 or int32, got torch.float32"),
    ({"layers": torch.zeros(1, 4, 4, dtype=torch.int16)}, ValueError, r"layers must be \[N, L, H, W\]"),
    ({"rois": torch.zeros(3, 4)}, ValueError, r"rois must be \[K, 5\]"),
    ({"layer": torch.zeros(2, dtype=torch.int64)}, ValueError, r"layer must be \[K\] = \[3\] like rois, got \[2\]"),
    ({"number": torch.zeros(3)}, TypeError, "number must be integers"),
    ({"size": 0}, ValueError, "size must be an integer from 1 to 32767, got 0"),
]


@pytest.mark.parametrize("changed, error, said", WRONG, ids=lambda one: one if isinstance(one, str) else "")
def test_errors(changed, error, said):
    none = torch.zeros(3, dtype=torch.int64)
    given = {"layers": torch.zeros(1, 1, 4, 4, dtype=torch.int16), "rois": torch.zeros(3, 5), "layer": none}
    with pytest.raises(error, match=said):
        ops.mask_targets(**{**given, "number": none, **changed})
