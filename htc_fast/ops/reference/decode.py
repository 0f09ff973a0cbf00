"""decode in plain PyTorch: a run of ones is a slice of the image, read column by column."""

import torch
from torch import Tensor


def decode(runs: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    """runs [T, 2], offsets [K + 1] -> [K, H, W] bool."""
    masks = torch.zeros(len(offsets) - 1, width * height, dtype=torch.bool)
    for k, mask in enumerate(masks):
        for begin, end in runs[offsets[k] : offsets[k + 1]].tolist():
            mask[begin:end] = True
    return masks.reshape(len(masks), width, height).transpose(1, 2).contiguous()
