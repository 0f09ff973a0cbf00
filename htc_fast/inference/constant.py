"""Standardised and switchable convolutions for inference, where their weights are the same at every call."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.models.sac import SwitchableConv2d, mean, means
from htc_fast.models.standardised import StandardisedConv2d, geometry

ALIGNED = 8  # outputs of a product: rows of 16 bytes, in 16 bits


@torch.no_grad()
def hold_weights(net: nn.Module) -> None:
    """Give every standardised convolution the weight that it takes, in place: plain ones become plain."""
    for path, one in list(net.named_modules()):
        if isinstance(one, StandardisedConv2d) and not isinstance(one, ConstantSwitch):
            made = ConstantSwitch(one) if isinstance(one, SwitchableConv2d) else _plain(one)
            net.set_submodule(path, made.train(one.training))


def _plain(layer: StandardisedConv2d) -> nn.Conv2d:
    made = nn.Conv2d(**geometry(layer))
    made.weight, made.bias = nn.Parameter(layer.standardised()), layer.bias
    return made


class ConstantSwitch(SwitchableConv2d):
    """As SwitchableConv2d: both weights as they are taken, and the norm behind it inside its last sum.

    decisions  switch and offsets, which read the same means, in one convolution
    scale      [O, 1, 1] of the output before the context is added, which has the norm's share too
    """

    def __init__(self, layer: SwitchableConv2d):
        nn.Conv2d.__init__(self, **geometry(layer))
        self.weight, self.bias = nn.Parameter(layer.standardised()), layer.bias
        self.far_weight = nn.Parameter(self.weight + layer.weight_difference)
        self.pre_context, self.post_context = layer.pre_context, layer.post_context
        self.decisions, self.taps = _decisions(layer), layer.near_offset.out_channels
        self.scale = nn.Parameter(self.weight.new_ones(self.out_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, taps = x + self.pre_context(mean(x)), self.taps
        found = self.decisions(means(x))
        switch, offsets = found[:, 2 * taps : 2 * taps + 1], (found[:, :taps], found[:, taps : 2 * taps])
        y = self.switched(x, switch, offsets, (self.weight, self.far_weight))
        return torch.addcmul(self.post_context(mean(y)), y, self.scale)

    @torch.no_grad()
    def take_in(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        """Let the layer do what a norm of running statistics behind it does."""
        context = self.post_context
        assert norm.running_mean is not None and norm.running_var is not None and context.bias is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean * scale if norm.bias is None else norm.bias - norm.running_mean * scale
        context.weight = nn.Parameter(context.weight * scale[:, None, None, None])
        context.bias = nn.Parameter(context.bias * scale + shift)
        self.scale = nn.Parameter(self.scale * scale[:, None, None])


def _decisions(layer: SwitchableConv2d) -> nn.Conv2d:
    """Near offsets, far offsets and the switch, which is the middle of a 3x3, as outputs of one convolution."""
    parts = layer.near_offset, layer.far_offset, layer.switch
    weights = [*(one.weight for one in parts[:2]), F.pad(layer.switch.weight, (1, 1, 1, 1))]
    weight, bias = torch.cat(weights), torch.cat([one.bias for one in parts if one.bias is not None])
    spare = -len(weight) % ALIGNED
    stride: Any = layer.stride
    made = nn.Conv2d(layer.in_channels, len(weight) + spare, 3, stride, padding=1, device="meta")
    made.weight = nn.Parameter(F.pad(weight, (0, 0, 0, 0, 0, 0, 0, spare)))
    made.bias = nn.Parameter(F.pad(bias, (0, spare)))
    return made
