"""Large kernels in the semantic branch (Peng et al., CVPR 2017: global convolutional network)."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 7


class GCN(nn.Module):
    """A row of pixels, then a column, plus a column, then a row; and a ReLU on the sum, none between."""

    def __init__(self, channels: int, size: int = SIZE):
        super().__init__()
        # A kernel and its padding, both as (down, across).
        row, column = ((1, size), (0, size // 2)), ((size, 1), (size // 2, 0))
        orders = (row, column), (column, row)
        self.row_column, self.column_row = (
            nn.Sequential(*(nn.Conv2d(channels, channels, kernel, padding=pad) for kernel, pad in order))
            for order in orders
        )
        for conv in (*self.row_column, *self.column_row):
            nn.init.xavier_normal_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> the same shape."""
        return (self.row_column(x) + self.column_row(x)).relu_()


def merge(features: list[Tensor], blocks: Iterable[nn.Module], level: int) -> Tensor:
    """As `ops.semantic_merge`, with a block for each level in place of its 1x1 and ReLU.

    features  [N, C, H_l, W_l], finest first: each is resampled, bilinear with corners aligned, and then goes through
              its block, since a kernel that sees neighbours does not commute with resampling
    returns   [N, C, H_level, W_level]
    """
    size = features[level].shape[2:]
    first, *rest = (block(resampled(one, size)) for one, block in zip(features, blocks))
    return sum(rest, first)


def resampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """maps [N, C, H, W] -> [N, C, *size], bilinear with corners aligned, in their own type."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    # Autocast resamples in float32 and would leave it at that.
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True).to(maps.dtype)
