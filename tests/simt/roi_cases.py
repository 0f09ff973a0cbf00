"""RoIAlign's named cases, shared by the emulator's tests and the GPU's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from htc_fast.ops.reference import roi_align as reference

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
    "no_boxes": Case(count=0, semantic=14),
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


def arrange(map: Tensor, layout: str) -> Tensor:
    if layout == "contiguous":
        return map.contiguous()
    if layout == "sliced":
        roomy = torch.full((*map.shape[:2], map.shape[2] + 3, map.shape[3] + 2), float("nan"), dtype=map.dtype)
        roomy = roomy.to(memory_format=torch.channels_last)[:, :, 1:-2, 1:-1]
        return roomy.copy_(map)
    return map.contiguous(memory_format=torch.channels_last)


class Inputs:
    """A case's tensors, and what the reference makes of them."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator().manual_seed(case.seed)
        self.case, self.levels = case, len(case.levels)
        sizes = [*case.levels, *([case.levels[min(1, self.levels - 1)]] if case.semantic else [])]
        maps = [torch.randn(case.images, case.channels, *size, generator=generator) for size in sizes]
        self.maps = [arrange(map.to(case.dtype), case.layout) for map in maps]
        self.scales = [0.25 / 2**level for level in range(self.levels)] + ([0.125] if case.semantic else [])
        boxes = draw_boxes(case, generator)
        if case.batched:
            self.rois = boxes.reshape(case.images, case.count, 4)
        else:
            images = torch.randint(0, case.images, (case.count, 1), generator=generator)
            self.rois = torch.cat([images.float(), boxes], dim=1)
        shape = (len(boxes), *case.size, case.channels)
        self.grad = torch.randn(shape, generator=generator).to(case.dtype).permute(0, 3, 1, 2)
        self.options = [*case.size, case.ratio, case.semantic or 1]

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
