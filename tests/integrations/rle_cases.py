"""Random outputs of detectors, and their masks by the long way."""

from types import SimpleNamespace

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F

SEEDS = 11, 12


def smooth(count: int, height: int, width: int, seed: int) -> torch.Tensor:
    """[count, height, width] logits with blobs in them."""
    coarse = torch.randn(1, count, 6, 7, generator=torch.Generator().manual_seed(seed)) * 4 - 1
    return F.interpolate(coarse, (height, width), mode="bicubic")[0].contiguous()


def queries(batch: int = 2, count: int = 9, classes: int = 3, side: int = 40, seed: int = 11) -> SimpleNamespace:
    """Outputs as Mask2Former's and EoMT's models give them."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, count, classes + 1, generator=generator) * 3
    maps = torch.stack([smooth(count, side, side, seed + index) for index in range(batch)])
    return SimpleNamespace(class_queries_logits=logits, masks_queries_logits=maps)


def strings(masks) -> list[bytes]:
    """pycocotools' of masks [K, H, W]."""
    return [coco_mask.encode(np.asfortranarray(one))["counts"] for one in np.asarray(masks).astype(np.uint8)]


def masks(rles: list[dict]) -> np.ndarray:
    """[K, H, W] bool, by pycocotools."""
    return np.stack([coco_mask.decode(one) for one in rles]).astype(bool)


def counts(rles: list[dict]) -> list[bytes]:
    return [one["counts"] for one in rles]
