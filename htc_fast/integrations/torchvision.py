"""torchvision's R-CNN family: one launch for all levels instead of a loop that waits at each."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from htc_fast import ops
from htc_fast.integrations import _pooling
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
        self.featmap_names = list(featmap_names)
        self.output_size = grid_size(output_size if isinstance(output_size, int) else (output_size[0], output_size[1]))
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
        features = [x[name] for name in self.featmap_names if name in x]
        if not features or not image_shapes:
            raise ValueError(
                f"expected maps {', '.join(self.featmap_names)} and the images' sizes, "
                f"got maps {', '.join(x)} and {len(image_shapes)} sizes."
            )
        height = max(size[0] for size in image_shapes)
        scales = [2.0 ** round(math.log2(one.shape[-2] / height)) for one in features]
        return ops.multi_level_roi_align(
            features,
            _pooling.numbered(boxes),
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
    returns  how many were swapped
    """
    return _pooling.replace(
        model,
        "MultiScaleRoIAlign",
        lambda old: MultiScaleRoIAlign(
            old.featmap_names,
            old.output_size,
            old.sampling_ratio,
            canonical_scale=old.canonical_scale,
            canonical_level=old.canonical_level,
        ),
    )
