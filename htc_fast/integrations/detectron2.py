"""detectron2's detectors: one launch for all levels."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from htc_fast import ops
from htc_fast.integrations import _pooling
from htc_fast.ops._arguments import items
from htc_fast.ops.roi_align import grid_size, scales_of


class ROIPooler(nn.Module):
    """detectron2.modeling.poolers.ROIPooler, for its two kinds of RoIAlign.

    output_size     h, w
    scales          one per level, finest first, such as 1/4, 1/8, 1/16, 1/32
    sampling_ratio  samples per bin and axis; 0: one per pixel
    pooler_type     "ROIAlignV2" (shifted by half a pixel) or "ROIAlign"
    raises          ValueError for another pooler_type
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
        self.sampling_ratio, self.aligned = sampling_ratio, pooler_type == "ROIAlignV2"
        self.canonical_box_size, self.canonical_level = canonical_box_size, canonical_level

    def forward(self, x: list[Tensor], box_lists: list) -> Tensor:
        """Pool every image's boxes.

        x          L maps [N, C, H_l, W_l]
        box_lists  N of detectron2's Boxes, or tensors [L, 4]
        returns    [K, C, h, w]
        raises     ValueError, TypeError
        """
        boxes = [getattr(one, "tensor", one) for one in items("box_lists", box_lists)]
        return ops.multi_level_roi_align(
            x,
            _pooling.numbered(boxes, x),
            self.output_size,
            self.scales,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
            canonical_size=self.canonical_box_size,
            canonical_level=self.canonical_level,
        )


def replace_pooling(model: nn.Module) -> int:
    """Swap every ROIPooler of a detectron2 model for ours, in place.

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
