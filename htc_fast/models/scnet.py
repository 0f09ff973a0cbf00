"""SCNet (Vu et al., AAAI 2021): one mask head that learns from the boxes a test gives it, and what it is told besides.

The parts, each a switch of its own: what is in the whole image is added to every RoI's features (`ContextHead`), what
the last box head made of a box to that box's mask features (`Relay`), and the heads' convolutions are residual pairs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.errors import UserError
from htc_fast.models import box_head, mask_head
from htc_fast.models.config import Model
from htc_fast.models.conv3x3_relu import Conv3x3ReLU
from htc_fast.models.convolution import Convolution

MASK_PAIRS, SEMANTIC_PAIRS, CONTEXT_PAIRS = 6, 2, 2


def check(config: Model) -> None:
    """raises  UserError for a combination of SCNet's switches that means nothing"""
    if config.feature_relay and not config.sample_consistency:
        raise UserError(
            "feature_relay hands the last stage's boxes on to their one mask head, got sample_consistency=False: "
            "set sample_consistency=True, or feature_relay=False."
        )
    if config.sample_consistency and config.interleaved:
        raise UserError(
            "sample_consistency trains masks on the very boxes of the last box head, got interleaved=True, which draws "
            "others: set interleaved=False."
        )
    if config.sample_consistency and config.information_flow:
        raise UserError(
            "sample_consistency leaves one mask head, got information_flow=True, which needs several: "
            "set information_flow=False."
        )
    for name in ("adaptive_pooling", "mask_fc"):
        if config.residual_heads and getattr(config, name):
            raise UserError(
                f"residual_heads makes mask heads of pairs of convolutions, got {name}=True, whose head is made of "
                f"single ones: set {name}=False, or residual_heads=False."
            )


class ResidualPair(nn.Module):
    """Maps [K, C, H, W] -> x + second(relu(first(x))), two 3x3 convolutions; no ReLU follows the sum.

    norm  a batch norm follows each convolution
    """

    def __init__(self, channels: int, norm: bool = False):
        super().__init__()
        # Torch's own first weights are small enough for a pair to start close to the identity.
        self.first = Conv3x3ReLU(channels, norm)
        self.second = Convolution(channels, channels, 3, norm)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """rows: which of the K are real, bool of K elements, for norms in training; None: all."""
        return x + self.second(self.first(x, rows), rows)


class ContextHead(nn.Module):
    """P2..P6 -> what is in the whole image: a vector [N, C, 1, 1], and its reading as logits [N, classes].

    The mean is over the whole map of the coarsest level, padding included.

    source  SCNet, section 3.4; the number of logits is that of mmdetection's files
    """

    def __init__(self, channels: int, classes: int, norm: bool = False):
        super().__init__()
        self.convs = nn.ModuleList(ResidualPair(channels, norm) for _ in range(CONTEXT_PAIRS))
        self.classes = nn.Linear(channels, classes)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.zeros_(self.classes.bias)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """features [N, C, H_l, W_l], of which the last counts."""
        x = features[-1]
        for pair in self.convs:
            x = pair(x)
        x = x.mean((2, 3), keepdim=True)
        return x, self.classes(x.flatten(1))


class Relay(nn.Module):
    """What a box head reads classes from [K, hidden] -> what is added to mask features [K, C, 14, 14].

    source  SCNet, section 3.3: a fully connected layer, 7 x 7 and bilinear (corners aligned); no activation
    """

    def __init__(self, hidden: int, channels: int):
        super().__init__()
        self.channels = channels
        self.dense = nn.Linear(hidden, channels * box_head.RESOLUTION**2)
        nn.init.kaiming_normal_(self.dense.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        size = box_head.RESOLUTION
        return doubled(self.dense(hidden).unflatten(1, (self.channels, size, size)))


def doubled(maps: Tensor) -> Tensor:
    """maps [K, C, 7, 7] -> [K, C, 14, 14], bilinear with corners aligned."""
    return F.interpolate(maps, size=(mask_head.RESOLUTION,) * 2, mode="bilinear", align_corners=True)


def make_residual(mask_heads: nn.ModuleList, semantic: Any, channels: int, norm: bool) -> None:
    """Put residual pairs in the place of the heads' convolutions; semantic: the branch, or None."""
    for head in mask_heads:
        head.convs = nn.ModuleList(ResidualPair(channels, norm) for _ in range(MASK_PAIRS))
    if semantic is not None:
        semantic.convs = nn.ModuleList(ResidualPair(channels, norm) for _ in range(SEMANTIC_PAIRS))


def with_context(x: Any, context: Tensor | None, rois: Tensor) -> Any:
    """RoI features plus the vector of the image that each RoI lies in.

    x        [K, C, h, w], or a list of such
    context  [N, C, 1, 1]; None: x as it is
    rois     [K, 5], whose first number is the image's, or boxes [N, R, 4]
    """
    if context is None:
        return x
    if rois.dim() == 3:
        own = context[:, None].expand(-1, rois.shape[1], -1, -1, -1).flatten(0, 1)
    else:
        own = context.index_select(0, rois[:, 0].to(torch.int64))
    return added(x, own)


def added(x: Any, more: Tensor) -> Any:
    """RoI features [K, C, h, w] plus more; with adaptive pooling those of every level."""
    return [one + more for one in x] if isinstance(x, list) else x + more
