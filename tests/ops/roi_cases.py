"""The poolings' named cases: what every column of test_roi_align.py and test_pr_roi_pool.py computes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from htc_fast.ops.reference import roi_align as reference
from tests.simt import emulator

NAN, INF = float("nan"), float("inf")
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
# A mean of inputs of size one, rounded once to the output's type.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Case:
    levels: tuple[tuple[int, int], ...] = ((40, 56), (20, 28), (10, 14), (5, 7))
    channels: int = 16
    images: int = 2
    count: int = 9
    size: tuple[int, int] = (7, 7)
    ratio: int = 0
    aligned: bool = True
    semantic: int = 0  # the grid of the semantic map; 0: none
    dtype: torch.dtype = torch.float32
    layout: str = "channels_last"
    batched: bool = False  # rois [N, R, 4]
    boxes: str = "mixed"
    seed: int = 0
    rois: tuple[tuple[float, ...], ...] | None = None  # instead of drawn ones


BOXES = ((0, 0, 0, 50, 40), (1, -20, -10, 25, 30), (1, 60, 40, 75, 60), (0, 3, 3, 40.5, 60), (1, 20, 20, 20, 20))
LARGE = ((0, 0, 0, 500, 500), (1, 0, 0, 120, 200))
BROKEN = ((0, NAN, 0, 9, 9), (1, 0, 0, INF, 9), (1, 0, -INF, 3, 3), (0, 1, 1, 9, 9))
WIDE = ((0, 0, 0, 640, 256), (1, 4, -9, 600, 250), (1, 40, 0, 630, 200))
OUTSIDE = ((0, -90, -90, -50, -60), (1, 24, 28, 90, 90), (0, -4, -4, 22, 26))

# Few enough operations for Triton's interpreter.
SMALL = {
    "small_levels": Case(levels=((20, 24), (10, 12), (5, 6), (3, 3)), rois=BOXES + LARGE, size=(2, 3)),
    "small_no_boxes": Case(levels=((6, 5),), channels=8, count=0, size=(2, 3)),
    "small_outside": Case(levels=((6, 5),), channels=8, rois=OUTSIDE, size=(2, 3)),
    "small_not_finite": Case(levels=((9, 9),), channels=8, rois=BROKEN, size=(2, 3)),
    "small_one_channel": Case(levels=((20, 17),), channels=1, rois=BOXES, size=(2, 3)),
    "small_odd": Case(levels=((10, 12), (5, 6)), channels=33, rois=BOXES[:3], size=(2, 3)),
    "small_sliced": Case(levels=((20, 21), (10, 12)), channels=5, rois=BOXES, size=(2, 3), layout="sliced"),
    "small_nchw": Case(levels=((20, 21), (10, 12)), channels=5, rois=BOXES, size=(2, 3), layout="contiguous"),
    "small_fixed": Case(levels=((15, 17),), channels=6, rois=BOXES, size=(2, 3), ratio=2, aligned=False),
    "small_sparse": Case(levels=((15, 17),), channels=6, rois=BOXES, size=(1, 2), ratio=1),
    "small_many_samples": Case(levels=((15, 17),), channels=6, rois=BOXES, size=(2, 2), ratio=11),
    "small_every_border": Case(levels=((9, 7),), channels=6, rois=((0, -300, -200, 400, 350),), size=(2, 2)),
    "small_two_blocks": Case(levels=((20, 20),), channels=4, rois=BOXES[:2], size=(1, 11)),
    "small_inside_out": Case(levels=((20, 20),), channels=4, rois=((0, 60, 50, 20, 10),), size=(2, 3), ratio=2),
    "small_batched": Case(levels=((20, 20),), channels=4, rois=BOXES[:4], size=(2, 3), batched=True, count=2),
    "small_semantic": Case(levels=((16, 18), (8, 9)), channels=8, rois=BOXES[:4], size=(2, 2), semantic=4),
    "small_semantic_uneven": Case(levels=((16, 18),), channels=8, rois=BOXES[:3], size=(3, 4), semantic=5),
    "small_semantic_same_grid": Case(levels=((16, 18),), channels=8, rois=BOXES[:3], size=(2, 2), semantic=2),
    "small_far": Case(
        levels=((6, 100),), channels=8, rois=((0, 304.7, 2, 392.7, 17), (1, 319.3, 1, 406.8, 20)), size=(2, 9)
    ),
    "small_pair": Case(levels=((9, 9), (5, 5)), channels=4, rois=BOXES[:2], size=(2, 2)),
    "small_half": Case(levels=((20, 17),), channels=24, rois=BOXES, size=(2, 3), dtype=torch.float16),
    "small_brain": Case(levels=((20, 17),), channels=24, rois=BOXES, size=(2, 3), dtype=torch.bfloat16),
}

CASES = {
    "plain": Case(),
    "mask": Case(size=(14, 14), count=4),
    "semantic_box": Case(semantic=14),
    "semantic_mask": Case(size=(14, 14), semantic=14, count=3),
    "semantic_uneven": Case(size=(3, 5), semantic=7, count=5),
    "semantic_coarse": Case(size=(6, 4), semantic=3, count=5),
    "fixed": Case(ratio=2, aligned=False),
    "fixed_many": Case(ratio=11, count=3),
    "half": Case(dtype=torch.float16, semantic=14, channels=24),
    "brain": Case(dtype=torch.bfloat16, semantic=14, channels=24),
    "half_of_64": Case(dtype=torch.float16, semantic=14, channels=64, count=7),
    "brain_of_320": Case(dtype=torch.bfloat16, semantic=14, channels=320, count=3),
    "brain_mask": Case(dtype=torch.bfloat16, channels=128, count=3, size=(14, 14), semantic=14),
    "half_sparse": Case(dtype=torch.float16, channels=64, count=4, ratio=2, boxes="long", levels=((64, 400),)),
    "brain_strange": Case(dtype=torch.bfloat16, channels=64, count=12, semantic=14, boxes="strange"),
    "half_large_bins": Case(dtype=torch.float16, channels=64, levels=((70, 80),), size=(2, 2), rois=LARGE),
    "brain_longer_than_tables": Case(dtype=torch.bfloat16, channels=64, levels=((70, 80),), size=(1, 1), rois=LARGE),
    "brain_odd": Case(dtype=torch.bfloat16, channels=13),
    "wide": Case(channels=264, count=2, dtype=torch.bfloat16, size=(2, 3)),
    "odd": Case(channels=5),
    "one_channel": Case(channels=1, size=(28, 28), levels=((60, 44),), count=2),
    "nchw": Case(layout="contiguous"),
    "nchw_half": Case(layout="contiguous", dtype=torch.float16, semantic=14, count=4),
    "sliced": Case(layout="sliced"),
    "batched": Case(batched=True, count=4, images=3),
    "one_level": Case(levels=((33, 21),)),
    "five_levels": Case(levels=((40, 56), (20, 28), (10, 14), (5, 7), (3, 4))),
    "tiny_maps": Case(levels=((1, 1), (2, 1), (1, 3), (1, 1)), semantic=14),
    "small_boxes": Case(boxes="small", count=12),
    "long_boxes": Case(levels=((64, 400), (32, 200)), boxes="long", count=4, channels=8),
    "long_boxes_fixed": Case(levels=((64, 400), (32, 200)), boxes="long", count=4, channels=8, ratio=2),
    "same_place": Case(boxes="same", count=40, channels=4),
    "crowd": Case(boxes="same", count=600, images=1, channels=1, size=(1, 2), levels=((9, 13),)),
    "strange": Case(boxes="strange", count=12, semantic=14),
    "strange_fixed": Case(boxes="strange", count=12, ratio=2),
    "one_bin": Case(size=(1, 1)),
    "many_bins": Case(size=(70, 3), count=2, channels=4),
    "more_bins": Case(size=(30, 31), count=24, channels=1, images=1, levels=((24, 30),), boxes="same"),
    # Rows of bins of the wide boxes are cut into more pieces than one block has groups for.
    "large_among_small": Case(levels=((64, 160),), channels=17, rois=(*WIDE[:1], *BOXES * 15, *WIDE[1:])),
    "longer_than_tables": Case(levels=((70, 80),), size=(1, 1), channels=4, rois=LARGE, semantic=2),
    "no_boxes": Case(count=0, semantic=14),
    **SMALL,
}


def draw_boxes(case: Case, generator: torch.Generator) -> Tensor:
    """[K, 4] in pixels of the image, partly outside it."""
    height, width = (4 * side for side in case.levels[0])
    count = case.count * (case.images if case.batched else 1)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 1.1 - 5
    share = torch.rand(count, 2, generator=generator)
    size = {"small": share * 6, "long": share * torch.tensor([1.0, 0.02]) * width + 2}.get(
        case.boxes, share**2 * torch.tensor([width, height]) + 1
    )
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    if case.boxes == "same":
        boxes = boxes[:1].expand(count, 4) + torch.rand(count, 4, generator=generator)
    if case.boxes == "strange":
        odd = [
            [float("nan"), 0, 20, 20],
            [0, 0, float("inf"), 9],
            [30, 30, 10, 10],
            [5, 5, 5, 5],
            [-1e6, -1e6, 1e6, 1e6],
            [-90, -90, -50, -50],
            [0, 0, width, height],
            [-2, -2, 2, 2],
            [width - 2, height - 2, width + 9, height + 9],
        ]
        boxes[: len(odd)] = torch.tensor(odd)[: len(boxes)]
    return boxes


def draw_rois(case: Case, generator: torch.Generator) -> Tensor:
    """[K, 5], or [N, R, 4] of a batched case."""
    if case.rois is not None:
        rois = torch.tensor(case.rois, dtype=torch.float32)
        return rois[:, 1:].reshape(case.images, case.count, 4).contiguous() if case.batched else rois
    boxes = draw_boxes(case, generator)
    if case.batched:
        return boxes.reshape(case.images, case.count, 4)
    return torch.cat([torch.randint(0, case.images, (case.count, 1), generator=generator).float(), boxes], dim=1)


def arrange(map: Tensor, layout: str) -> Tensor:
    if layout == "contiguous":
        return map.contiguous()
    if layout == "sliced":
        roomy = torch.full((*map.shape[:2], map.shape[2] + 3, map.shape[3] + 2), float("nan"), dtype=map.dtype)
        roomy = roomy.to(memory_format=torch.channels_last)[:, :, 1:-2, 1:-1]
        return roomy.copy_(map)
    return map.contiguous(memory_format=torch.channels_last)


def pyramid(images=2, channels=37, height=96, width=160, dtype=torch.float32, seed=0, channels_last=True):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for scale in SCALES:
        one = torch.randn(images, channels, int(height * scale), int(width * scale), generator=generator).to(dtype)
        made.append(one.contiguous(memory_format=torch.channels_last) if channels_last else one)
    semantic = torch.randn(images, channels, height // 8, width // 8, generator=generator).to(dtype)
    return made, semantic.contiguous(memory_format=torch.channels_last) if channels_last else semantic


def draw_numbered(count=40, images=2, height=96, width=160, seed=0):
    """Boxes of all sizes, some of them partly or wholly outside."""
    generator = torch.Generator().manual_seed(seed)
    number = torch.randint(0, images, (count, 1), generator=generator)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([width * 1.2, height * 1.2]) - 10
    size = torch.exp(torch.rand(count, 2, generator=generator) * 5 + 1)
    return torch.cat([number, centre - size / 2, centre + size / 2], dim=1)


class Inputs:
    """A case's tensors, and what the reference makes of them."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator().manual_seed(case.seed)
        self.case, self.levels = case, len(case.levels)
        sizes = [*case.levels, *([case.levels[min(1, self.levels - 1)]] if case.semantic else [])]
        maps = [torch.randn(case.images, case.channels, *size, generator=generator) for size in sizes]
        self.maps = [arrange(map.to(case.dtype), case.layout) for map in maps]
        self.scales = [0.25 / 2**level for level in range(self.levels)] + ([0.125] if case.semantic else [])
        self.rois = draw_rois(case, generator)
        count = self.rois.shape[:-1].numel()
        shape = (count, *case.size, case.channels)
        self.grad = torch.randn(shape, generator=generator).to(case.dtype).permute(0, 3, 1, 2)

    def pool(self, column, maps: list[Tensor]) -> Tensor:
        case, (features, semantic) = self.case, (maps[: self.levels], maps[self.levels :])
        options = {"semantic": semantic[0], "semantic_scale": 0.125} if semantic else {}
        return column.call("multi_level_roi_align", features, self.rois, case.size, self.scales[: self.levels],
                           sampling_ratio=case.ratio, aligned=case.aligned, semantic_grid=case.semantic or 1,
                           **options)  # fmt: skip

    def run(self, column) -> tuple[Tensor, list[Tensor]]:
        """The output and the gradients of all maps."""
        maps = [map.detach().requires_grad_() for map in self.maps]
        out = self.pool(column, maps)
        return out.detach(), list(torch.autograd.grad(out, maps, self.grad, materialize_grads=True))

    def expected(self) -> tuple[Tensor, list[Tensor]]:
        maps = [map.double().requires_grad_() for map in self.maps]
        semantic = maps[-1] if self.case.semantic else None
        out = reference.multi_level_roi_align(
            maps[: self.levels],
            self.rois,
            self.case.size,
            self.scales[: self.levels],
            self.case.ratio,
            self.case.aligned,
            56.0,
            semantic,
            0.125,
            self.case.semantic or 1,
        )
        grads = torch.autograd.grad(out, maps, self.grad.double(), allow_unused=True)
        return out.detach(), [torch.zeros_like(m) if g is None else g for g, m in zip(grads, maps)]


def drawn(test: Callable) -> Callable:
    """A test of (column, data) that draws its cases, always the same ones."""
    how = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
    return settings(max_examples=emulator.examples(300), **how)(given(data=st.data())(test))


def draw_case(data, **own) -> Case:
    """Any case; own: strategies of fields that one pooling alone has."""
    levels = [(data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))]
    for _ in range(data.draw(st.integers(0, 3))):
        levels.append((max(1, levels[-1][0] // 2), max(1, levels[-1][1] // 2)))
    fields = {
        "channels": st.sampled_from([1, 3, 4, 8, 16, 17, 32]),
        "images": st.integers(1, 3),
        "count": st.integers(0, 6),
        "size": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "aligned": st.booleans(),
        "dtype": st.sampled_from(list(TOLERANCE)),
        "layout": st.sampled_from(["channels_last", "contiguous", "sliced"]),
        "batched": st.booleans(),
        "boxes": st.sampled_from(["mixed", "small", "same"]),
        "seed": st.integers(0, 1000),
    }
    return Case(levels=tuple(levels), **{name: data.draw(one) for name, one in (fields | own).items()})
