"""Feature pyramid (Lin et al., CVPR 2017): C2..C5 to P2..P6 of one width."""

import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.models.convolution import Convolution


class FPN(nn.Module):
    """Lateral 1x1, top-down nearest up-sampling and sum, 3x3; P6 is every second pixel of P5.

    norm  a batch norm follows each convolution
    """

    def __init__(self, in_channels: list[int], channels: int, norm: bool = False):
        super().__init__()
        self.lateral = nn.ModuleList(Convolution(count, channels, 1, norm) for count in in_channels)
        self.output = nn.ModuleList(Convolution(channels, channels, 3, norm) for _ in in_channels)
        for conv in [*self.lateral, *self.output]:
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """maps C2..C5 [N, C_l, H_l, W_l] -> P2..P6 [N, C, H_l, W_l]."""
        sums = [conv(one) for conv, one in zip(self.lateral, maps)]
        for level in range(len(sums) - 2, -1, -1):
            sums[level] = sums[level] + F.interpolate(sums[level + 1], size=sums[level].shape[-2:], mode="nearest")
        pyramid = [conv(one) for conv, one in zip(self.output, sums)]
        return with_coarsest(pyramid)


def with_coarsest(pyramid: list[Tensor]) -> list[Tensor]:
    """P2..P5 -> P2..P6: every second pixel of P5."""
    return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]
