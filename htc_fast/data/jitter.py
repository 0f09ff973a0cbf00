"""Large-scale jitter: pictures of all sizes on one square, so that every batch has the same shape."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from htc_fast.data.layers import resized
from htc_fast.data.pictures import MEAN, resize, resized_size
from htc_fast.data.transforms import clipped
from htc_fast.models.structures import UNLABELLED

# By the names that "Simple Copy-Paste" gives them.
FACTORS = {"standard": (0.8, 1.25), "large": (0.1, 2.0)}


class ScaleJitter(nn.Module):
    """Resize a sample by a random factor, then cut it at random, or pad it at the bottom and right, to a square.

    side    pixels of the square; at a factor of 1, the picture's long side is that long
    factor  (lowest, highest), drawn evenly
    mean    RGB colour of the padding, rounded to whole levels; masks are padded with 0, semantic maps with 255

    An instance goes that has no pixel in the square; one that the cut goes through has the box of what is left.
    source  Simple Copy-Paste (CVPR 2021), section 3; detectron2's ResizeScale and FixedSizeCrop, mmdetection's
            RandomResize, RandomCrop (with new boxes, also without instances) and Pad
    """

    def __init__(self, side: int, factor: tuple[float, float] = FACTORS["large"], mean: Sequence[float] = MEAN):
        super().__init__()
        if side < 1 or not 0 < factor[0] <= factor[1]:
            raise ValueError(f"sides and factors must be positive, got side={side}, factor={factor}.")
        self.side, self.factor = side, factor
        self.colour = torch.tensor(mean).round().to(torch.uint8)

    def forward(self, sample: dict) -> dict:
        height, width = F.get_size(sample["image"])
        longest = self.side * float(torch.empty(()).uniform_(*self.factor))
        size = resized_size(height, width, longest, longest)
        top, left = (int(torch.randint(0, max(side - self.side, 0) + 1, ())) for side in size)
        out = dict(sample)
        for key, value in sample.items():
            if isinstance(value, tv_tensors.Image):
                out[key] = tv_tensors.Image(self._image(value.as_subclass(Tensor), size, top, left))
            elif isinstance(value, tv_tensors.Mask):
                padding = UNLABELLED if key == "semantic" else 0
                out[key] = tv_tensors.Mask(self._mask(value.as_subclass(Tensor), size, top, left, padding))
        boxes = sample["boxes"].as_subclass(Tensor) * torch.tensor([size[1] / width, size[0] / height] * 2)
        # Beyond the picture there is nothing that the square could cut.
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([size[1], size[0]] * 2))
        return clipped(out, boxes - torch.tensor([left, top] * 2), (self.side, self.side))

    def _image(self, image: Tensor, size: tuple[int, int], top: int, left: int) -> Tensor:
        part = resize(image, size)[:, top : top + self.side, left : left + self.side]
        height, width = part.shape[1:]
        # Channels last, as decoding gives pictures: resizing and normalising are quicker.
        square = torch.empty(self.side, self.side, 3, dtype=torch.uint8)
        square[height:] = square[:height, width:] = self.colour
        square[:height, :width] = part.permute(1, 2, 0)
        return square.permute(2, 0, 1)

    def _mask(self, mask: Tensor, size: tuple[int, int], top: int, left: int, padding: int) -> Tensor:
        """Nearest pixels, of the square alone: a picture twice as large has four times as many."""
        part = resized(mask, size, top, left, (self.side, self.side))
        if part.shape[-2:] == (self.side, self.side):
            return part
        square = part.new_full((*mask.shape[:-2], self.side, self.side), padding)
        square[..., : part.shape[-2], : part.shape[-1]] = part
        return square
