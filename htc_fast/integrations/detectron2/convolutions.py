"""detectron2's convolutions with their norm folded in, where no gradient is asked for."""

from typing import Any

from detectron2 import layers
from torch import nn

from htc_fast.integrations import _layers


class Conv2d(layers.Conv2d):
    """The frozen normalization after it goes into its weights."""

    def forward(self, x: Any) -> Any:
        relu = isinstance(self.activation, nn.ReLU)
        if self.training or not (relu or self.activation is None) or not _layers.takes(x, self, self.norm):
            return super().forward(x)
        return _layers.run(x, self, self.norm, relu=relu)


def plain(conv: Any, side: int) -> bool:
    """A convolution of stride 1 that keeps the size."""
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    usual = shape == ((side, side), (1, 1), (side // 2, side // 2), (1, 1), 1)
    return usual and conv.padding_mode == "zeros"
