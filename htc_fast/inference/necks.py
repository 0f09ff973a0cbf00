"""The pyramid's and the semantic branch's switched modules for inference: sums and ReLUs inside the convolutions."""

from torch import Tensor, nn

from htc_fast.inference.fuse import FusedConvolution
from htc_fast.models.aspp import ASPP, ConvReLU
from htc_fast.models.gcn import GCN
from htc_fast.models.htc import HTC
from htc_fast.models.pafpn import PAFPN


def fuse_necks(network: HTC) -> None:
    """Change those that `network` has, in place."""
    if network.pafpn is not None:
        network.pafpn = FusedPAFPN(network.pafpn)
    if network.aspp is not None:
        _fuse_aspp(network.aspp)
    if network.semantic_head is not None:
        lateral = network.semantic_head.lateral
        for level, block in enumerate(lateral):
            if isinstance(block, GCN):
                lateral[level] = FusedGCN(block)


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


def _fuse_aspp(aspp: ASPP) -> None:
    aspp.branches = nn.ModuleList(_with_relu(branch) for branch in aspp.branches)
    aspp.pooled = _with_relu(aspp.pooled)


def _with_relu(layer: ConvReLU) -> FusedConvolution:
    """A `ConvReLU` as a plain convolution with its ReLU."""
    channels, pad = layer.out_channels, layer.padding
    conv = nn.Conv2d(channels, channels, layer.kernel_size, padding=pad, dilation=layer.dilation)
    conv.weight, conv.bias = layer.weight, layer.bias
    return FusedConvolution(conv, nn.ReLU())
