"""torchvision's R-CNN family: one launch for all levels instead of a loop that waits at each."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from htc_fast import ops
from htc_fast.integrations import _pooling
from htc_fast.ops._arguments import check_tensor, items, short, sides
from htc_fast.ops.roi_align import grid_size


class MultiScaleRoIAlign(nn.Module):
    """torchvision.ops.MultiScaleRoIAlign: the same arguments, the same features.

    featmap_names   keys of the pyramid's levels, finest first
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
        super().__init__()
        self.featmap_names = items("featmap_names", featmap_names)
        self.output_size = grid_size(output_size)
        self.sampling_ratio = sampling_ratio
        self.canonical_scale, self.canonical_level = canonical_scale, canonical_level

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool every image's boxes.

        x             maps [N, C, H_l, W_l] by name
        boxes         N tensors [L, 4] in pixels
        image_shapes  N times height, width of the images; their largest sides give the levels' scales
        returns       [K, C, h, w]
        raises        ValueError, TypeError
        """
        if not isinstance(x, Mapping):
            raise TypeError(f"x must be a dict of maps by name, got {short(x)}.")
        features = [x[name] for name in self.featmap_names if name in x]
        sizes = [sides("a size of image_shapes", size) for size in items("image_shapes", image_shapes)]
        if not features or not sizes:
            raise ValueError(
                f"expected maps {', '.join(self.featmap_names)} and the images' sizes, "
                f"got maps {', '.join(map(str, x))} and {len(sizes)} sizes."
            )
        rois, height = _pooling.numbered(boxes, features), max(size[0] for size in sizes)
        scales = [_scale(one, height) for one in features]
        return ops.multi_level_roi_align(
            features,
            rois,
            self.output_size,
            scales,
            sampling_ratio=self.sampling_ratio,
            aligned=False,
            canonical_size=self.canonical_scale,
            canonical_level=self.canonical_level,
        )


def replace_pooling(model: nn.Module) -> int:
    """Swap every MultiScaleRoIAlign of a torchvision model for ours, in place.

    model    Mask R-CNN, Faster R-CNN, Keypoint R-CNN, or anything that holds one
    returns  how many are ours now
    raises   TypeError where the model is no module; ValueError where it holds none
    """
    return _pooling.replace(
        model,
        MultiScaleRoIAlign,
        lambda old: MultiScaleRoIAlign(
            old.featmap_names,
            old.output_size,
            old.sampling_ratio,
            canonical_scale=old.canonical_scale,
            canonical_level=old.canonical_level,
        ),
    )


def _scale(level: Tensor, height: int) -> float:
    """Pixels of a level per pixel of the images, to the nearest power of two."""
    check_tensor("a feature map", level)
    if level.dim() != 4 or not level.shape[2] or not height:
        raise ValueError(
            f"maps must be [N, C, H, W] of images with pixels, got {list(level.shape)} for images {height} pixels high."
        )
    return 2.0 ** round(math.log2(level.shape[2] / height))
