"""A convolution with, where asked for, a batch norm of all processes' batches behind it."""

import torch
from torch import Tensor, nn

from htc_fast.models.norm import JointBatchNorm
from htc_fast.ops import packed_convolution


class Conv2d(nn.Conv2d):
    """torch's own, of which a 3x3 or 1x1 in training on a CPU takes a faster form of its weight where there is one."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if packed_convolution.direct(self) and packed_convolution.learns(x, weight):
            return packed_convolution.learned(x, weight, bias, relu=False)
        return super()._conv_forward(x, weight, bias)


def is_plain(module: nn.Module | None) -> bool:
    """Whether it is torch's own or this, and no other subclass, which pads or keeps its weight in its own way."""
    return type(module) in (nn.Conv2d, Conv2d)


def take_over(net: nn.Module) -> None:
    """Let every plain convolution of a network be one of these; names and weights stay."""
    for module in net.modules():
        if type(module) is nn.Conv2d:  # which holds nothing less
            module.__class__ = Conv2d


class Convolution(Conv2d):
    """Maps [K, inputs, H, W] -> [K, outputs, H, W].

    norm  a batch norm follows, and takes the place of the bias
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: bool = False):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
        self.norm = JointBatchNorm(outputs) if norm else None

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """rows: which of the K are real, bool of K elements, for the norm in training; None: all."""
        if self.normalises:
            return self.normalised(self.convolved(x), rows)
        return self._conv_forward(x, *self.folded())

    @property
    def normalises(self) -> bool:
        """Whether the norm looks at its batch, as in training; otherwise `folded` has all of it."""
        return self.norm is not None and self.norm.training

    def convolved(self, x: Tensor) -> Tensor:
        """What the norm takes: the convolution alone, without a bias."""
        return self._conv_forward(x, self.weight, None)

    def normalised(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """The norm alone, of what `convolved` gave."""
        assert self.norm is not None
        return self.norm(x, rows)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight [outputs, inputs, k, k] and bias [outputs], the norm's running statistics taken in."""
        norm = self.norm
        if norm is None:
            assert self.bias is not None
            return self.weight, self.bias
        assert norm.running_mean is not None and norm.running_var is not None
        exact, dtype = torch.promote_types(self.weight.dtype, torch.float32), self.weight.dtype
        scale = norm.weight.to(exact) * (norm.running_var.to(exact) + norm.eps).rsqrt()
        weight = self.weight.to(exact) * scale[:, None, None, None]
        return weight.to(dtype), (norm.bias.to(exact) - norm.running_mean.to(exact) * scale).to(dtype)


def by_fan_out(*layers: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """First weights as for layers with a ReLU behind them, by the number of their outputs; biases of zero."""
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def fold_norms(network: nn.Module) -> None:
    """Give every `Convolution` what `folded` says as its weight and bias, instead of the norm."""
    for module in list(network.modules()):
        if isinstance(module, Convolution) and module.norm is not None:
            weight, bias = module.folded()
            module.weight, module.bias, module.norm = nn.Parameter(weight), nn.Parameter(bias), None
