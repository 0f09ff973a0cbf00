"""torchvision's RoI poolings: one launch for all levels instead of a loop that waits at each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._jit_internal import BroadcastingList2  # type: ignore[attr-defined]
from torchvision.ops import MultiScaleRoIAlign as Theirs
from torchvision.ops import RoIAlign as TheirRoIAlign
from torchvision.ops import poolers
from torchvision.ops import roi_align as their_roi_align

from htc_fast import ops
from htc_fast.integrations import _pooling
from htc_fast.ops._arguments import items, short, sides
from htc_fast.ops.roi_align import grid_size


@torch.fx.wrap
def roi_align(
    input: Tensor,
    boxes: Tensor | list[Tensor],
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """`ops.roi_align`; quantized maps, which have no kernel of ours, are left to torchvision."""
    if torch.jit.is_scripting():
        return ops.roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)
    elif isinstance(input, Tensor) and input.is_quantized:
        return their_roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)
    else:
        return ops.roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)


class RoIAlign(TheirRoIAlign):
    """torchvision.ops.RoIAlign: the same arguments, the same features.

    output_size     h, w
    spatial_scale   pixels of the map per pixel of the boxes
    sampling_ratio  samples per bin and axis; <= 0: one per pixel that the bin spans
    aligned         shift by half a pixel
    source          torchvision's class of this name
    """

    def forward(self, input: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        """input [N, C, H, W], rois [K, 5] or N tensors [L, 4] -> [K, C, h, w]."""
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)


class MultiScaleRoIAlign(Theirs):
    """torchvision.ops.MultiScaleRoIAlign: the same arguments, the same features.

    featmap_names   keys of the pyramid's levels; levels are read in the order of the maps, finest first
    output_size     h, w
    sampling_ratio  samples per bin and axis
    source          torchvision's class of this name
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | tuple[int, int],
        sampling_ratio: int,
        *,
        canonical_scale: float = 224,
        canonical_level: int = 4,
    ):
        super().__init__(
            items("featmap_names", featmap_names),
            grid_size(output_size),
            sampling_ratio,
            canonical_scale=canonical_scale,
            canonical_level=canonical_level,
        )

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool every image's boxes.

        x             maps [N, C, H_l, W_l] by name
        boxes         a tensor [L, 4] in pixels of each image
        image_shapes  height, width of each image; the largest sides of the first call give the levels' scales
        returns       [K, C, h, w]
        raises        ValueError, TypeError
        """
        if torch.jit.is_scripting():
            maps = poolers._filter_input(x, self.featmap_names)
            if self.scales is None or self.map_levels is None:  # type: ignore[has-type]
                self.scales, self.map_levels = poolers._setup_scales(
                    maps, image_shapes, self.canonical_scale, self.canonical_level
                )
            scales, mapper = self.scales, self.map_levels
            assert scales is not None and mapper is not None
            used = 1 if len(scales) == 1 else mapper.k_max - mapper.k_min + 1
            if not 1 <= used <= len(maps):
                return poolers._multiscale_roi_align(maps, boxes, self.output_size, self.sampling_ratio, scales, mapper)
            rois = poolers._convert_to_roi_format(boxes).to(torch.float32)
            height, width = self.output_size
            finest = self.canonical_scale / (2.0**self.canonical_level * scales[0])
            return torch.ops.htc_fast.multi_level_roi_align(
                maps[:used],
                rois.detach(),
                height,
                width,
                scales[:used],
                self.sampling_ratio,
                False,
                finest,
                None,
                1.0,
                1,
            ).contiguous()
        else:
            return pool(self, x, boxes, image_shapes).contiguous()


class FastMultiScaleRoIAlign(MultiScaleRoIAlign):
    """What `accelerate` makes of torchvision's, and `restore` gives back: one of ours stays ours."""


OWN = MultiScaleRoIAlign, FastMultiScaleRoIAlign


def pool(module: Any, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
    """What a MultiScaleRoIAlign's forward returns, channels-last in memory where one launch made it."""
    if not isinstance(x, Mapping):
        raise TypeError(f"x must be a dict of maps by name, got {short(x)}.")
    maps = poolers._filter_input(x, module.featmap_names)
    if not maps:
        raise ValueError(f"expected maps {', '.join(module.featmap_names)}, got maps {', '.join(map(str, x))}.")
    rois = _pooling.numbered(boxes, maps)
    if module.scales is None or module.map_levels is None:
        module.scales, module.map_levels = _first_scales(module, maps, image_shapes)
    used = _used(module)
    # A type for each map comes from autocast; torchvision casts them level by level.
    if not 1 <= used <= min(len(maps), 8) or len({one.dtype for one in maps}) > 1:
        return poolers._multiscale_roi_align(
            maps, boxes, module.output_size, module.sampling_ratio, module.scales, module.map_levels
        )
    return ops.multi_level_roi_align(
        maps[:used],
        rois,
        module.output_size,
        module.scales[:used],
        sampling_ratio=module.sampling_ratio,
        aligned=False,
        canonical_size=module.canonical_scale,
        canonical_level=module.canonical_level,
    )


def _used(module: Any) -> int:
    """How many maps boxes are pooled from: by the first and the last scale, not by their number, as torchvision has it.

    Of maps of one size it is one, and of maps that skip a size it is more than there are.
    """
    return len(module.scales) if len(module.scales) == 1 else module.map_levels.k_max - module.map_levels.k_min + 1


def _first_scales(module: Any, maps: list[Tensor], image_shapes: Any) -> tuple[list[float], Any]:
    """Pixels of each level per pixel of the images, to the nearest power of two, and torchvision's map of levels."""
    sizes = [sides("a size of image_shapes", size) for size in items("image_shapes", image_shapes)]
    if not sizes:
        raise ValueError("expected the images' sizes, got none.")
    height = max(size[0] for size in sizes)
    for one in maps:
        if one.dim() != 4 or not one.shape[2] or not height:
            raise ValueError(
                f"maps must be [N, C, H, W] of images with pixels, got {list(one.shape)} for images {height} pixels "
                "high."
            )
    return poolers._setup_scales(maps, sizes, module.canonical_scale, module.canonical_level)


def replace_pooling(model: nn.Module) -> int:
    """Swap every MultiScaleRoIAlign of a torchvision model for ours, in place.

    model    Mask R-CNN, Faster R-CNN, Keypoint R-CNN, or anything that holds one
    returns  how many are ours now
    raises   TypeError where the model is no module; ValueError where it holds none
    """
    return _pooling.replace(model, MultiScaleRoIAlign, _like)


def _like(old: Any) -> MultiScaleRoIAlign:
    new = MultiScaleRoIAlign(
        old.featmap_names,
        old.output_size,
        old.sampling_ratio,
        canonical_scale=old.canonical_scale,
        canonical_level=old.canonical_level,
    )
    new.scales, new.map_levels = old.scales, old.map_levels
    return new
