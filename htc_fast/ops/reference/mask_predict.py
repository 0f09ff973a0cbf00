"""The end of a mask head in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_predict(
    x: Tensor, up_weight: Tensor, up_bias: Tensor, weight: Tensor, bias: Tensor, labels: Tensor | None
) -> Tensor:
    up = F.conv_transpose2d(x, up_weight, up_bias, stride=2).relu()
    if labels is None:
        return F.conv2d(up, weight, bias)
    pixels = up.permute(0, 2, 3, 1).flatten(1, 2)
    return own_logits(pixels, weight, bias, labels).unflatten(1, up.shape[2:])


def own_logits(pixels: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """pixels [K, P, O] -> logits [K, P] of the class given of each; zeros where that is no class."""
    known = (labels >= 0) & (labels < len(weight))
    labels = labels.long().clamp(0, len(weight) - 1)
    own = weight[labels].flatten(1)[:, :, None].to(pixels.dtype)
    logits = torch.bmm(pixels, own)[..., 0]
    logits = logits + bias[labels][:, None].to(logits.dtype)
    return torch.where(known[:, None], logits, 0)
