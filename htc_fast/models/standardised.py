"""Weight standardisation (Qiao et al., 2019), adaptive as DetectoRS has it: it starts as the convolution it replaces.

Each output's weight is brought to mean zero and variance one, then to a mean and a deviation that are kept beside it.
These are what the weight had when it was handed over, so that ImageNet's layers go on as they were.
"""

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn

from htc_fast.models.convolution import is_plain

EPSILON = 1e-5  # of the variance


class StandardisedConv2d(nn.Conv2d):
    """x [N, C, H, W] -> [N, O, h, w]: the geometry, groups and bias of `conv`, and its weight standardised.

    weight_std   [O, 1, 1, 1]  deviation of each output's weight, and
    weight_mean  [O, 1, 1, 1]  its mean; buffers: nothing trains them
    source       mmcv's ConvAWS2d; it computes in float32 at least
    """

    weight_std: Tensor
    weight_mean: Tensor

    def __init__(self, conv: nn.Conv2d):
        super().__init__(**geometry(conv))
        self.weight, self.bias = conv.weight, conv.bias
        mean, deviation = moments(conv.weight.detach())
        self.register_buffer("weight_std", deviation)
        self.register_buffer("weight_mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.standardised(), self.bias)

    def standardised(self) -> Tensor:
        """The weight [O, C / groups, kh, kw] that the convolution takes, in the type of the one that it has."""
        mean, deviation = moments(self.weight)
        exact = self.weight.to(mean.dtype)
        return ((exact - mean) / deviation * self.weight_std + self.weight_mean).to(self.weight.dtype)

    @torch.no_grad()
    def adapt(self) -> None:
        """Keep the weight's own mean and deviation, so that it is taken as it is."""
        mean, deviation = moments(self.weight)
        self.weight_mean.copy_(mean)
        self.weight_std.copy_(deviation)


def geometry(conv: nn.Conv2d) -> dict[str, Any]:
    """What `nn.Conv2d` takes for one like it, whose tensors are still to come."""
    names = "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"
    return {name: getattr(conv, name) for name in names} | {"bias": False, "device": "meta"}


def moments(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [O, 1, 1, 1] of each output's weight [O, I, kh, kw], the variance without bias."""
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def standardise(net: nn.Module) -> None:
    """Make every plain convolution without a bias, which is one with a norm behind it, a standardised one, in place."""
    for path, one in list(net.named_modules()):
        if is_plain(one) and one.bias is None and one.weight[0].numel() > 1:
            net.set_submodule(path, StandardisedConv2d(one))


def adapt(network: nn.Module, loaded: Container[str]) -> None:
    """Let the layers whose weight came from a file of plain convolutions take it as it is.

    loaded  names of the tensors that came
    """
    for path, one in network.named_modules():
        if isinstance(one, StandardisedConv2d) and f"{path}.weight" in loaded and f"{path}.weight_std" not in loaded:
            one.adapt()
