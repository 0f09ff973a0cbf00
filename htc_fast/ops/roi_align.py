"""RoIAlign on one map or on a whole pyramid."""

import math
from collections.abc import Sequence

from torch import Tensor

from htc_fast.ops.reference import roi_align as reference


def multi_level_roi_align(
    features: list[Tensor],
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scales: Sequence[float],
    *,
    sampling_ratio: int = 0,
    aligned: bool = True,
    canonical_size: float = 224,
    canonical_level: int = 4,
    semantic: Tensor | None = None,
    semantic_scale: float = 1 / 8,
    semantic_grid: int = 14,
) -> Tensor:
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if rois.dim() == 3:
        from htc_fast.models.geometry import to_rois

        rois = to_rois(rois).flatten(0, 1)
    finest = round(-math.log2(spatial_scales[0]))
    return reference.multi_level_roi_align(
        features,
        rois,
        size,
        list(spatial_scales),
        finest,
        sampling_ratio,
        aligned,
        canonical_size,
        canonical_level,
        semantic,
        semantic_scale,
        semantic_grid,
    )


def roi_align(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    return reference.roi_align(input, boxes, size, spatial_scale, sampling_ratio, aligned)
