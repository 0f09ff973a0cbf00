"""detectron2's RoI pooling: one launch for all levels."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from htc_fast import ops
from htc_fast.errors import ShapeError
from htc_fast.integrations import _pooling
from htc_fast.ops._arguments import check_tensor, items, short
from htc_fast.ops.roi_align import finest_of, grid_size, scales_of


class ROIAlign(nn.Module):
    """detectron2.layers.ROIAlign: the same arguments, the same features.

    output_size     h, w
    spatial_scale   pixels of the map per pixel of the boxes
    sampling_ratio  samples per bin and axis; 0: one per pixel
    aligned         boxes are shifted by half a pixel
    raises          ValueError, TypeError
    source          detectron2's class of this name
    """

    def __init__(
        self, output_size: int | tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool = True
    ):
        super().__init__()
        self.output_size, self.spatial_scale = grid_size(output_size), spatial_scale
        self.sampling_ratio, self.aligned = _whole(sampling_ratio), aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool boxes.

        input    [N, C, H, W]
        rois     [K, 5]  image number, x1, y1, x2, y2
        returns  [K, C, h, w], contiguous
        raises   ShapeError for rois of another shape, ValueError, TypeError
        """
        if torch.jit.is_scripting():
            scales = [self.spatial_scale]
            return scripted([input], rois, self.output_size, scales, self.sampling_ratio, self.aligned, 1.0)
        else:
            return align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


class ROIPooler(nn.Module):
    """detectron2.modeling.poolers.ROIPooler, for its two kinds of RoIAlign.

    output_size     h, w
    scales          one per level, finest first: powers of two, each half of the one before, such as 1/4, 1/8, 1/16
    sampling_ratio  samples per bin and axis; 0: one per pixel
    pooler_type     "ROIAlignV2" (shifted by half a pixel) or "ROIAlign"
    raises          ValueError for another pooler_type; ShapeError for scales that
                    are no pyramid
    source          detectron2's class of this name
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: float = 224,
        canonical_level: int = 4,
    ):
        super().__init__()
        if pooler_type not in ("ROIAlign", "ROIAlignV2"):
            raise ValueError(f"pooler_type must be ROIAlign or ROIAlignV2, got {pooler_type!r}.")
        self.output_size, self.scales = grid_size(output_size), scales_of(scales)
        self.sampling_ratio, self.aligned = _whole(sampling_ratio), pooler_type == "ROIAlignV2"
        self.canonical_box_size, self.canonical_level = canonical_box_size, canonical_level
        self.min_level, self.max_level = _levels(self.scales)
        self.finest_size = finest_of(canonical_box_size, canonical_level, self.scales)

    def forward(self, x: list[Tensor], box_lists: list[Tensor]) -> Tensor:
        """Pool every image's boxes.

        x          L maps [N, C, H_l, W_l]
        box_lists  N of detectron2's Boxes, or tensors [L, 4]; torch.jit.trace does not freeze how many boxes they hold
        returns    [K, C, h, w], contiguous; no images: K is 0
        raises     ShapeError for another number of lists, ValueError, TypeError
        """
        if torch.jit.is_scripting():
            rois = numbered(box_lists)
            return scripted(x, rois, self.output_size, self.scales, self.sampling_ratio, self.aligned, self.finest_size)
        else:
            levels = self.canonical_box_size, self.canonical_level
            return pool(x, box_lists, self.output_size, self.scales, self.sampling_ratio, self.aligned, *levels)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, scales={self.scales}, sampling_ratio={self.sampling_ratio}, "
            f"pooler_type={'ROIAlignV2' if self.aligned else 'ROIAlign'}, "
            f"canonical_box_size={self.canonical_box_size}, canonical_level={self.canonical_level}"
        )


def align(input: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool) -> Tensor:
    """What both ROIAligns do."""
    check_tensor("input", input)
    check_tensor("rois", rois)
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ShapeError(f"rois must be [K, 5], image number first, got {list(rois.shape)}.")
    input = input.dequantize() if input.is_quantized else input
    return ops.roi_align(input, rois.float(), size, scale, ratio, aligned).contiguous()


def pool(
    x: list[Tensor],
    box_lists: list,
    size: tuple[int, int],
    scales: Sequence[float],
    ratio: int,
    aligned: bool,
    canonical_size: float,
    canonical_level: int,
) -> Tensor:
    """What both ROIPoolers do."""
    maps = items("the feature maps", x)
    boxes = [getattr(one, "tensor", one) for one in items("box_lists", box_lists)]
    for number, one in enumerate(boxes):
        check_tensor(f"box_lists[{number}]", one)
        if one.dim() != 2 or one.shape[1] != 4:
            raise ShapeError(f"box_lists must hold [L, 4], got {list(one.shape)}.")
    if not maps:
        raise ShapeError("expected 1 to 8 feature levels, got none.")
    check_tensor("level 0", maps[0])
    if maps[0].dim() != 4 or len(boxes) != maps[0].shape[0]:
        raise ShapeError(
            f"box_lists must be one tensor per image of maps [N, C, H, W], got {len(boxes)} for {list(maps[0].shape)}."
        )
    rois = numbered(boxes) if boxes else maps[0].new_zeros(0, 5, dtype=torch.float32)
    return ops.multi_level_roi_align(
        maps,
        _without_level(rois, len(maps)),
        size,
        scales,
        sampling_ratio=ratio,
        aligned=aligned,
        canonical_size=canonical_size,
        canonical_level=canonical_level,
    ).contiguous()  # for heads that take a view of it


def scripted(
    maps: list[Tensor],
    rois: Tensor,
    size: tuple[int, int],
    scales: list[float],
    ratio: int,
    aligned: bool,
    finest: float,
) -> Tensor:
    """What all of them do in torch.jit.script, where nothing is checked."""
    rois = _without_level(rois.detach().float(), len(maps))
    return torch.ops.htc_fast.multi_level_roi_align(
        maps, rois, size[0], size[1], scales, ratio, aligned, finest, None, 1.0, 1
    ).contiguous()


def numbered(boxes: list[Tensor]) -> Tensor:
    """[L, 4] per image -> [K, 5] float32; no length is looked at, so that a trace does not freeze one."""
    rows = [torch.cat([torch.full_like(one[:, :1], float(number)), one], dim=1) for number, one in enumerate(boxes)]
    return torch.cat(rows).float()


def _without_level(rois: Tensor, levels: int) -> Tensor:
    """Of boxes that are turned inside out detectron2 finds no level, which leaves zeros; so does NaN here."""
    if levels == 1:
        return rois
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    return rois.masked_fill((area < 0)[:, None], float("nan"))


def _whole(sampling_ratio: Any) -> Any:
    """0.0, as some configurations have it, is taken for 0."""
    whole = isinstance(sampling_ratio, float) and sampling_ratio.is_integer()
    return int(sampling_ratio) if whole else sampling_ratio


def _levels(scales: list[float]) -> tuple[int, int]:
    """The first and last level's number, 4 for a scale of 1/16.

    raises  ShapeError
    """
    numbers = [-math.log2(scale) for scale in scales]
    first = round(numbers[0]) if numbers else 0
    wanted = range(first, first + len(numbers))
    if not numbers or first < 0 or not all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(numbers, wanted)):
        raise ShapeError(
            f"scales must be powers of two from 1 on, each half of the one before, finest first, got {short(scales)}."
        )
    return first, first + len(numbers) - 1


def replace_pooling(model: nn.Module) -> int:
    """Swap every ROIPooler of a detectron2 model for ours, in place; `accelerate` does more, and can be undone.

    returns  how many are ours now
    raises   TypeError where the model is no module; ValueError where it holds none, or one that pools otherwise than
             by RoIAlign
    """
    return _pooling.replace(model, ROIPooler, _like)


def _like(old: Any) -> ROIPooler:
    levels = list(old.level_poolers)
    if not all(hasattr(one, "aligned") and hasattr(one, "sampling_ratio") for one in levels):
        raise ValueError(f"only RoIAlign poolers can be swapped, got {type(levels[0]).__name__}.")
    scales = [one.spatial_scale for one in levels]
    kind = "ROIAlignV2" if levels[0].aligned else "ROIAlign"
    return ROIPooler(
        old.output_size, scales, levels[0].sampling_ratio, kind, old.canonical_box_size, old.canonical_level
    )
