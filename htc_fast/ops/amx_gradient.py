"""The gradient of a 3x3 convolution's weights in bfloat16 on a processor's matrix unit (AMX); sums are float32."""

import torch
from torch import Tensor

from htc_fast.ops._declare import declare


@torch.no_grad()
def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Of a convolution with one pixel of padding.

    x        [N, C, H, W] bfloat16;  grad [N, O, H, W], of the result; C and O multiples of 32, at least one pixel
    returns  [O, C, 3, 3] float32, the same bits for any number of threads; what is no finite number shows in all
             taps of its channels
    raises   RuntimeError if they do not fit, are empty, or the processor has no AMX
    """
    return torch.ops.htc_fast.amx_gradient(x, grad)


def _fake(x, grad):
    return x.new_empty(grad.shape[1], 3, 3, x.shape[1], dtype=torch.float32).permute(0, 3, 1, 2)


declare("amx_gradient(Tensor x, Tensor grad) -> Tensor", _fake)
