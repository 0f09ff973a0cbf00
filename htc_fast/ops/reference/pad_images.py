"""Images with channels of zeros behind their own, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_images(images: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    return F.pad(images.to(dtype), (0, 0, 0, 0, 0, channels - images.shape[1]))
