"""Atrous spatial pyramid pooling (Chen et al., 2017, section 3.3) behind a feature pyramid."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.models.convolution import by_fan_out
from htc_fast.models.fpn import with_coarsest

RATES = (6, 12, 18)


class ASPP(nn.Module):
    """Every level seen at five scales, and these made one map by a 1x1; P2 to P5 share the weights.

    The scales are a 1x1, three 3x3 of growing dilation and the mean of the whole map through a 1x1, each with a ReLU.
    The mean is that of all pixels that the network gets, the padding of smaller pictures in a batch among them: the
    layers see no image sizes. P6 is made from the new P5.
    """

    def __init__(self, channels: int):
        super().__init__()
        dilated = (ConvReLU(channels, 3, rate) for rate in RATES)
        self.branches = nn.ModuleList([ConvReLU(channels, 1), *dilated])
        self.pooled = ConvReLU(channels, 1)
        self.project = nn.Conv2d((len(self.branches) + 1) * channels, channels, 1)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """P2..P6 [N, C, H_l, W_l] -> the same shapes; P6 is every second pixel of P5."""
        pyramid = [self.level(one) for one in features[:-1]]
        return with_coarsest(pyramid)

    def level(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> the same shape."""
        near = torch.cat([branch(x) for branch in self.branches], dim=1)
        mean = self.pooled(x.mean(dim=(2, 3), keepdim=True))
        # The mean is the same at every pixel: so is its share of the 1x1, which is taken once.
        local, whole = self.project.weight.split([near.shape[1], mean.shape[1]], dim=1)
        return F.conv2d(near, local, self.project.bias) + F.conv2d(mean, whole)


class ConvReLU(nn.Conv2d):
    """Maps [N, C, H, W] -> relu(convolution) [N, outputs, H, W].

    size     of the kernel, odd;  rate: pixels from one of its rows to the next
    outputs  None: as many as channels
    """

    def __init__(self, channels: int, size: int, rate: int = 1, outputs: int | None = None):
        super().__init__(channels, outputs or channels, size, padding=rate * (size // 2), dilation=rate)
        by_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()
