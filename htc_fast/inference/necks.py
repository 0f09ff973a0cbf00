"""The pyramid, and the modules that a configuration adds to it and to the semantic branch, for inference.

Sums and ReLUs are inside the convolutions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.inference.fuse import FusedConvolution, with_relu
from htc_fast.models.aspp import ASPP
from htc_fast.models.fpn import FPN
from htc_fast.models.gcn import GCN
from htc_fast.models.htc import HTC
from htc_fast.models.pafpn import PAFPN
from htc_fast.models.rfp import Context
from htc_fast.ops.convolution import lateral


def fuse_necks(network: HTC, gpu: bool) -> None:
    """Change the pyramid, and what of the others `network` has, in place."""
    network.fpn = FusedFPN(network.fpn, gpu)
    if network.pafpn is not None:
        network.pafpn = FusedPAFPN(network.pafpn)
    if network.aspp is not None:
        _fuse_aspp(network.aspp)
    if network.rfp is not None:
        _fuse_aspp(network.rfp.aspp)
    if network.semantic_head is not None:
        lateral = network.semantic_head.lateral
        for level, block in enumerate(lateral):
            if isinstance(block, GCN):
                lateral[level] = FusedGCN(block)


class FusedFPN(nn.Module):
    """As FPN, with the top-down sum inside the lateral convolution."""

    def __init__(self, fpn: FPN, gpu: bool):
        super().__init__()
        self.gpu = gpu
        self.lateral = nn.ModuleList(FusedConvolution(conv, None, overwrites=True) for conv in fpn.lateral)
        self.output = nn.ModuleList(FusedConvolution(conv, None) for conv in fpn.output)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """maps C2..C5 [N, C_l, H_l, W_l] -> P2..P6 [N, C, H_l, W_l]."""
        sums = [self.lateral[-1](maps[-1])]
        for level in range(len(maps) - 2, -1, -1):
            sums.insert(0, self._sum(self.lateral[level], maps[level], sums[0]))
        pyramid = [conv(one) for conv, one in zip(self.output, sums)]
        return [*pyramid, pyramid[-1][:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)]

    def _sum(self, layer: FusedConvolution, x: Tensor, coarser: Tensor) -> Tensor:
        if self.gpu:
            return lateral(x, layer.conv.weight, layer.conv.bias, coarser)
        return layer(x, F.interpolate(coarser, size=x.shape[-2:], mode="nearest"))


class FusedPAFPN(PAFPN):
    """As PAFPN, with the sum inside the convolution that halves."""

    def __init__(self, pafpn: PAFPN):
        nn.Module.__init__(self)
        # The pyramid's own level is read nowhere else.
        self.downsample = nn.ModuleList(FusedConvolution(conv, None, overwrites=True) for conv in pafpn.downsample)
        self.output = nn.ModuleList(FusedConvolution(conv, None) for conv in pafpn.output)

    def added(self, step: int, finer: Tensor, own: Tensor) -> Tensor:
        """As PAFPN."""
        return self.downsample[step](finer, own)


class FusedGCN(nn.Module):
    """As GCN, with sum and ReLU inside the last convolution."""

    def __init__(self, block: GCN):
        super().__init__()
        self.row_column = nn.Sequential(*(FusedConvolution(conv, None) for conv in block.row_column))
        first, last = block.column_row
        self.first = FusedConvolution(first, None)
        self.last = FusedConvolution(last, nn.ReLU(), overwrites=True)

    def forward(self, x: Tensor) -> Tensor:
        """As GCN."""
        return self.last(self.first(x), self.row_column(x))


def _fuse_aspp(aspp: ASPP | Context) -> None:
    aspp.branches = nn.ModuleList(with_relu(branch) for branch in aspp.branches)
    aspp.pooled = with_relu(aspp.pooled)
