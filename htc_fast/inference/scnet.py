"""SCNet's parts for inference: sums inside the convolutions, and a relay whose result lies as mask features do."""

from typing import Any

from torch import Tensor, nn

from htc_fast.inference.fuse import FusedConvolution, with_relu
from htc_fast.models.box_head import RESOLUTION
from htc_fast.models.htc import HTC
from htc_fast.models.scnet import ResidualPair, doubled


def fuse_scnet(network: HTC) -> None:
    """Change the residual pairs and the relay, where `network` has them, in place."""
    for module in list(network.modules()):
        if isinstance(module, nn.ModuleList) and len(module) and all(isinstance(one, ResidualPair) for one in module):
            for place, pair in enumerate(module):
                module[place] = FusedPair(pair, overwrites=place > 0)
    if network.relay is not None:
        network.relay = ChannelsLastRelay(network.relay)


class FusedPair(nn.Module):
    """As ResidualPair, with the sum inside the second convolution.

    overwrites  the result may take x's place in memory, as nothing else reads x
    """

    def __init__(self, pair: Any, overwrites: bool):
        super().__init__()
        self.first = pair.first
        self.second = FusedConvolution(with_relu(pair.second).conv, None, overwrites)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """As ResidualPair."""
        inner = self.first(x)
        if self.second.packed is None:
            return self.second(inner, x)
        # Winograd's form has no sum of its own.
        return self.second(inner).add_(x)


class ChannelsLastRelay(nn.Module):
    """As Relay, whose layer writes its maps as they lie in memory: row, column, channel."""

    def __init__(self, relay: Any):
        super().__init__()
        self.channels, self.dense = relay.channels, relay.dense
        for name in ("weight", "bias"):
            values = getattr(self.dense, name).detach().unflatten(0, (self.channels, -1))
            setattr(self.dense, name, nn.Parameter(values.transpose(0, 1).flatten(0, 1).contiguous()))

    def forward(self, hidden: Tensor) -> Tensor:
        """As Relay."""
        return doubled(self.dense(hidden).unflatten(1, (RESOLUTION, RESOLUTION, self.channels)).permute(0, 3, 1, 2))
