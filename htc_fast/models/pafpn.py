"""The way back up of PANet (Liu et al., CVPR 2018, section 3.1): what the finest level sees reaches the coarsest."""

from torch import Tensor, nn

from htc_fast.models.fpn import with_coarsest


class PAFPN(nn.Module):
    """Behind a feature pyramid: every level takes in the one below it, halved by a 3x3, and ends in a 3x3 of its own.

    Neither has a norm or an activation, as in mmdetection; PANet's own code has a ReLU behind both. The finest level
    stays as it was, and the running sums, not what their last 3x3 make of them, go up.
    """

    def __init__(self, channels: int, levels: int = 4):
        super().__init__()
        self.downsample = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, padding=1) for _ in range(levels - 1))
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels - 1))
        for conv in [*self.downsample, *self.output]:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """P2..P6 [N, C, H_l, W_l] -> N2..N6 of the same shapes; N6 is every second pixel of N5."""
        sums = [features[0]]
        for step, own in enumerate(features[1:-1]):
            sums.append(self.added(step, sums[-1], own))
        pyramid = [sums[0], *(conv(one) for conv, one in zip(self.output, sums[1:]))]
        return with_coarsest(pyramid)

    def added(self, step: int, finer: Tensor, own: Tensor) -> Tensor:
        """finer [N, C, H, W] halved, plus the level's own [N, C, H / 2, W / 2]."""
        return own + self.downsample[step](finer)
