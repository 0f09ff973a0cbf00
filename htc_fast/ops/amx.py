"""3x3 convolutions in bfloat16 on a processor's matrix unit (AMX), for inference and training.

Weights are laid out once for inference, at every call in training. Sums are float32.
"""

import torch
from torch import Tensor

from htc_fast.ops._declare import declare, maps_like


def _fake_weights(weight):
    return weight.new_empty(weight.numel(), dtype=torch.bfloat16)


def _fake(x, packed, bias, outputs, relu):
    return maps_like(x, x.shape[0], outputs, *x.shape[2:])


declare("amx_weights(Tensor weight) -> Tensor", _fake_weights)
declare("amx_convolution(Tensor x, Tensor packed, Tensor? bias, int outputs, bool relu) -> Tensor", _fake)
