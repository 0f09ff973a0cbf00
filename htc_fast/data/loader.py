"""Samples to batches: normalised, padded to one size, ground truth padded to one count."""

from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.data.numbered import layer_of
from htc_fast.data.pictures import MEAN, STD, normalise_and_pad
from htc_fast.models.structures import UNLABELLED, Targets

STRIDE = 8


class Collate:
    """List of sample dicts to (images, image_sizes, targets, names), as a DataLoader's collate_fn.

    mean, std  normalisation on the 0-255 scale, RGB
    multiple   image sides are padded to a multiple of this

    images       [N, 3, H, W]      float32, normalised, zero where padded
    image_sizes  [N, 2]            int64, height and width before padding
    targets      Targets           boxes [N, G, 4], labels [N, G] (-1 = padding), masks [N, G, H, W] uint8,
                                   semantic [N, H/8, W/8] int64 (255 = ignore) or None; G a multiple of 8. Of samples
                                   with layers: masks [N, L, H, W] int16, L even, and numbers, layers [N, G]
    names        [N]               file names
    """

    def __init__(self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, multiple: int = 32):
        self.mean, self.std, self.multiple = tuple(mean), tuple(std), multiple

    def __call__(self, samples: list[dict]) -> tuple[Tensor, Tensor, Targets, list[str]]:
        pixels = [sample["image"].as_subclass(Tensor) for sample in samples]
        images, image_sizes = normalise_and_pad(pixels, self.mean, self.std, multiple=self.multiple)
        return images, image_sizes, pad_targets(samples, images.shape[-2:]), [s["name"] for s in samples]


def pad_targets(samples: list[dict], size: Sequence[int]) -> Targets:
    """Ground truth of a batch whose padded images are (height, width) = size."""
    most = max(len(sample["labels"]) for sample in samples)
    slots = max(8, -(-most // 8) * 8)
    boxes = torch.zeros(len(samples), slots, 4)
    labels = torch.full((len(samples), slots), -1, dtype=torch.int64)
    masks, numbers, layers = _room_for_masks(samples, slots, size)
    semantic = None
    if "semantic" in samples[0]:
        semantic = torch.full((len(samples), size[0] // STRIDE, size[1] // STRIDE), UNLABELLED, dtype=torch.int64)
    for n, sample in enumerate(samples):
        count = len(sample["labels"])
        boxes[n, :count] = sample["boxes"].as_subclass(Tensor)
        labels[n, :count] = sample["labels"]
        own = sample["masks"].as_subclass(Tensor)
        masks[n, : len(own), : own.shape[1], : own.shape[2]] = own
        if numbers is not None and layers is not None:
            numbers[n, :count] = sample["numbers"]
            layers[n, :count] = layer_of(sample)
        if semantic is not None:
            # Nearest by 1/8 is every eighth pixel.
            small = sample["semantic"].as_subclass(Tensor)[::STRIDE, ::STRIDE]
            semantic[n, : small.shape[0], : small.shape[1]] = small
    return Targets(boxes=boxes, labels=labels, masks=masks, semantic=semantic, numbers=numbers, layers=layers)


def _room_for_masks(
    samples: list[dict], slots: int, size: Sequence[int]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Zeros for bitmaps [N, slots, H, W], or for layers [N, L, H, W] with numbers and layers [N, slots]."""
    if "numbers" not in samples[0]:
        return torch.zeros(len(samples), slots, *size, dtype=torch.uint8), None, None
    dtype = torch.int16
    for sample in samples:
        dtype = torch.promote_types(dtype, sample["masks"].dtype)
    # An even number: fewer shapes from batch to batch.
    depth = max(2, -(-max(len(sample["masks"]) for sample in samples) // 2) * 2)
    numbers, layers = (torch.zeros(len(samples), slots, dtype=torch.int64) for _ in range(2))
    return torch.zeros(len(samples), depth, *size, dtype=dtype), numbers, layers
