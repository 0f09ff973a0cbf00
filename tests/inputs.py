"""Inputs as a detector sees them, for tests and benchmarks. Everything follows from the seed."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGE = (800, 1344)
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def generator(seed: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def maps(channels: int = 256, images: int = 1, image=IMAGE, dtype=torch.float32, seed: int = 0) -> list[Tensor]:
    """P2..P5, channels-last."""
    rng = generator(seed)
    made = [torch.randn(images, channels, int(image[0] * s), int(image[1] * s), generator=rng) for s in SCALES]
    return [one.to(dtype).contiguous(memory_format=torch.channels_last) for one in made]


def proposals(count: int, images: int = 1, image=IMAGE, seed: int = 0) -> Tensor:
    """[K, 5]: sides spread evenly over the octaves from 16 to 600 pixels, clipped to the image."""
    rng, (height, width) = generator(seed), image
    side = torch.exp(torch.rand(count, generator=rng) * math.log(600 / 16) + math.log(16))
    ratio = torch.exp((torch.rand(count, generator=rng) - 0.5) * 1.4).sqrt()
    extent = torch.stack([side * ratio, side / ratio], dim=1)
    centre = torch.rand(count, 2, generator=rng) * torch.tensor([width, height])
    limit = torch.tensor([width, height, width, height])
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], dim=1).clamp(min=0).minimum(limit)
    return torch.cat([torch.randint(images, (count, 1), generator=rng), boxes], dim=1)


def candidates(count: int, classes: int, image=IMAGE, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """boxes [K, 4], scores [K], idxs [K] as NMS gets them."""
    rng = generator(seed)
    centre = torch.rand(count, 2, generator=rng) * torch.tensor([image[1], image[0]])
    extent = torch.exp(torch.rand(count, 2, generator=rng) * 3 + 2.5)
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], dim=1)
    return boxes, torch.rand(count, generator=rng), torch.randint(classes, (count,), generator=rng)


def soft_masks(count: int, image: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """masks [K, 28, 28] smooth probabilities, boxes [K, 4] inside the image."""
    rng, (height, width) = generator(seed), image
    noise = torch.rand(count, 1, 28, 28, generator=rng)
    masks = (F.avg_pool2d(noise, 7, 1, 3)[:, 0] * 3 - 1).clamp(0, 1)
    extent = torch.exp(torch.rand(count, 2, generator=rng) * 3.2 + 2.5) * min(height, width) / 800
    centre = torch.rand(count, 2, generator=rng) * torch.tensor([width, height])
    limit = torch.tensor([width, height, width, height])
    return masks, torch.cat([centre - extent / 2, centre + extent / 2], dim=1).clamp(min=0).minimum(limit)
