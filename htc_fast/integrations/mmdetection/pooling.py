"""mmdetection's detectors: one launch for all levels, in place of a loop that waits twice at each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from htc_fast import ops
from htc_fast.integrations import _pooling
from htc_fast.ops._arguments import check_tensor, items, positive
from htc_fast.ops.roi_align import grid_size, turned


class SingleRoIExtractor(nn.Module):
    """mmdetection's SingleRoIExtractor over RoIAlign.

    output_size      h, w
    featmap_strides  pixels of the image per pixel of each level, finest first
    finest_scale     boxes of less than twice this side (pixels) read the finest level
    sampling_ratio   samples per bin and axis; 0: one per pixel
    aligned          boxes are shifted by half a pixel
    out_channels     C, which mmdetection's heads ask for
    source           mmdetection's class of this name
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        featmap_strides: Sequence[int],
        finest_scale: float = 56,
        sampling_ratio: int = 0,
        aligned: bool = True,
        out_channels: int = 256,
    ):
        super().__init__()
        self.output_size = grid_size(output_size)
        self.featmap_strides = [positive("a stride", one) for one in items("featmap_strides", featmap_strides)]
        self.finest_scale = positive("finest_scale", finest_scale)
        self.sampling_ratio, self.aligned, self.out_channels = sampling_ratio, aligned, out_channels

    @property
    def num_inputs(self) -> int:
        """How many levels are read; heads ask for it."""
        return len(self.featmap_strides)

    def forward(self, feats: list[Tensor], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Pool RoIs.

        feats             L or more maps [N, C, H_l, W_l]; the first L are read
        rois              [K, 5]  image number, x1, y1, x2, y2 in pixels
        roi_scale_factor  boxes are made so many times larger around their centres, after their levels were chosen; with
                          one level it does nothing, as in mmdetection
        returns           [K, C, h, w], contiguous
        raises            ValueError, TypeError
        """
        check_tensor("rois", rois)
        rois, finest = rois.float(), self.finest_scale
        if roi_scale_factor is not None and self.num_inputs > 1:
            rois, finest = scaled(rois, roi_scale_factor), finest * roi_scale_factor
        out = ops.multi_level_roi_align(
            items("feats", feats)[: self.num_inputs],
            rois,
            self.output_size,
            [1 / stride for stride in self.featmap_strides],
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
            canonical_size=finest / self.featmap_strides[0],
            canonical_level=0,
        )
        return turned(out)


def scaled(rois: Tensor, factor: float) -> Tensor:
    """[K, 5] boxes made `factor` times larger around their centres; levels stay where finest_scale grows with them.

    raises  ValueError unless factor is a positive number and rois is [K, 5]; TypeError
    """
    factor = positive("roi_scale_factor", factor)
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois must be [K, 5] (image number first), got {list(rois.shape)}.")
    number, low, high = rois[:, :1], rois[:, 1:3], rois[:, 3:]
    centre, half = (low + high) * 0.5, (high - low) * factor * 0.5
    return torch.cat([number, centre - half, centre + half], dim=1)


def replace_pooling(model: nn.Module) -> int:
    """Swap every SingleRoIExtractor of an mmdetection model for ours, in place; the semantic one too.

    returns  how many are ours now
    raises   TypeError where the model is no module; ValueError where it holds none, or one that pools otherwise than
             by RoIAlign's mean
    """
    return _pooling.replace(model, SingleRoIExtractor, _like)


def _like(old: Any) -> SingleRoIExtractor:
    layer = old.roi_layers[0]
    if type(layer).__name__ != "RoIAlign" or getattr(layer, "pool_mode", "avg") != "avg":
        raise ValueError(f"only extractors over RoIAlign with pool_mode='avg' can be swapped, got {layer!r}.")
    return SingleRoIExtractor(
        layer.output_size, old.featmap_strides, old.finest_scale, layer.sampling_ratio, layer.aligned, old.out_channels
    )
