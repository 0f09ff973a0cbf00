"""What is done to detections at the end."""

import torch
from torch import Tensor


def pad_masks(masks: Tensor, labels: Tensor) -> Tensor:
    """masks [N, n, h, w] -> [N, D, h, w] for labels [N, D], zero where nothing was detected."""
    missing = labels.shape[1] - masks.shape[1]
    masks = torch.nn.functional.pad(masks, (0, 0, 0, 0, 0, missing)) if missing else masks
    return masks * (labels >= 0)[..., None, None]
