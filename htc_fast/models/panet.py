"""PANet's heads (Liu et al., CVPR 2018): they read every level of the pyramid, and add a fully connected mask."""

import copy
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from htc_fast import ops
from htc_fast.errors import UserError
from htc_fast.models.box_head import BoxHead, dense
from htc_fast.models.config import Model
from htc_fast.models.conv3x3_relu import Conv3x3ReLU
from htc_fast.models.convolution import by_fan_out
from htc_fast.models.mask_head import RESOLUTION, MaskHead
from htc_fast.ranges import part

LEVELS = 4  # P2 to P5
MASK_SIZE = 2 * RESOLUTION
Features = tuple[Tensor, Tensor, Tensor | None]


def adapted(config: Model, box_heads: nn.ModuleList, mask_heads: nn.ModuleList) -> tuple[nn.ModuleList, nn.ModuleList]:
    """The heads as the configuration's `adaptive_pooling` and `mask_fc` want them; without both, the same ones.

    raises  UserError for what these cannot be combined with
    """
    adaptive, norm = config.adaptive_pooling, config.norm != "none"
    if config.mask_fc and config.channels < 2:
        raise UserError("mask_fc halves the channels, of which there is only 1: set channels to 2 or more.")
    if adaptive:
        box_heads = nn.ModuleList(_adaptive(head) for head in box_heads)
    if adaptive or config.mask_fc:
        mask_heads = nn.ModuleList(PANetMaskHead(head, adaptive, config.mask_fc, norm) for head in mask_heads)
    return box_heads, mask_heads


def _adaptive(head: Any) -> nn.Module:
    """A box head whose first layer, fully connected or a convolution, is one for each level."""
    if head.convs is None:
        return AdaptiveBoxHead(head)
    head.convs[0] = Largest(per_level(head.convs[0], by_fan_out))
    return head


def largest(levels: Sequence[Tensor]) -> Tensor:
    """The largest of several tensors of one shape, at each place."""
    return reduce(torch.maximum, levels)


class Largest(nn.ModuleList):
    """A first layer for each level, of which the largest outputs go on: four maps [K, C, h, w] -> one."""

    def forward(self, levels: Sequence[Tensor], rows: Tensor | None = None) -> Tensor:
        """rows: which of the K are real, for norms in training; None: all."""
        return largest([layer(one, rows) for layer, one in zip(self, levels, strict=True)])


def per_level(layer: nn.Module, start: Callable[[Any], Any]) -> list[nn.Module]:
    """Copies of a layer, one for each level; `start` gives each its own first weight."""
    copies = [copy.deepcopy(layer) for _ in range(LEVELS)]
    for one in (inner for each in copies for inner in each.modules()):
        if isinstance(one, (nn.Conv2d, nn.Linear)):
            start(one)
    return copies


class AdaptiveBoxHead(nn.Module):
    """RoI features of four levels, each [K, C, 7, 7] -> as BoxHead, whose layers but the first it takes over.

    source  PANet, section 3.2: each level has its own first fully connected layer, of the results the largest go on.
            As in its released code, whose group norm behind the second layer is left out
    """

    def __init__(self, head: BoxHead):
        super().__init__()
        self.fc1 = nn.ModuleList(per_level(head.fc1, lambda one: nn.init.xavier_uniform_(one.weight)))
        self.convs, self.fc2, self.classes, self.deltas = None, head.fc2, head.classes, head.deltas

    def forward(self, levels: Sequence[Tensor], rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.predict(self.hidden(levels, rows))

    def hidden(self, levels: Sequence[Tensor], rows: Tensor | None = None) -> Tensor:
        """As BoxHead's."""
        # Which is the largest stays the same behind a ReLU.
        x = largest([dense(one, layer) for one, layer in zip(levels, self.fc1, strict=True)]).relu_()
        return dense(x, self.fc2).relu_().flatten(1)

    def predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """As BoxHead's."""
        return self.classes(hidden), self.deltas(hidden)


class MaskFC(nn.Module):
    """What a mask head's third convolution gives, [K, C, 14, 14] -> one map [K, 28, 28] for all classes, at least 0.

    norm    a batch norm follows each convolution
    source  PANet, section 3.3; its released code ends in a ReLU too, and has group norms behind its convolutions
    """

    def __init__(self, channels: int, norm: bool):
        super().__init__()
        self.conv4 = Conv3x3ReLU(channels, norm)
        self.conv5 = Conv3x3ReLU(channels, norm, channels // 2)
        self.dense = nn.Linear(channels // 2 * RESOLUTION**2, MASK_SIZE**2)
        by_fan_out(self.conv4, self.conv5)
        nn.init.normal_(self.dense.weight, std=0.01)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """rows: which of the K are real, for norms in training; None: all."""
        x = dense(self.conv5(self.conv4(x, rows), rows), self.dense).relu_()
        return x.flatten(1).unflatten(1, (MASK_SIZE, MASK_SIZE))


class PANetMaskHead(nn.Module):
    """A mask head with a first convolution for each level (adaptive), a fully connected branch (mask_fc), or both.

    Where information flows, the previous head's features, behind the 1x1 and ReLU, are added to every level's RoI
    features, as the semantic features are: before the first convolutions, of whose results the largest go on.

    head    whose layers it takes over
    norm    a batch norm follows the fully connected branch's convolutions, as it does the head's
    source  PANet, sections 3.2 and 3.3; the sum with the flow is ours
    """

    def __init__(self, head: MaskHead, adaptive: bool, mask_fc: bool, norm: bool = False):
        super().__init__()
        self.flow, self.convs, self.upsample, self.logits = head.flow, head.convs, head.upsample, head.logits
        if adaptive:
            self.convs[0] = Largest(per_level(head.convs[0], by_fan_out))
        self.fc = MaskFC(self.logits.in_channels, norm) if mask_fc else None

    def features(
        self, x: Tensor | list[Tensor], previous: Features | None = None, rows: Tensor | None = None
    ) -> Features:
        """What `predict` and the next head start from.

        x         [K, C, 14, 14]; with adaptive pooling four of them
        previous  of the head before, or None
        rows      which of the K are real, for norms in training; None: all
        returns   [K, C, 14, 14] behind the third convolution, and behind the fourth; and the rows
        """
        if self.flow is not None and previous is not None:
            x = self._with_flow(x, previous[1], rows)
        for conv in self.convs[:-1]:
            x = conv(x, rows)
        assert isinstance(x, Tensor)  # of four levels the first convolution made one
        return x, self.convs[-1](x, rows), rows

    def predict(self, features: Features, labels: Tensor | None = None) -> Tensor:
        """As MaskHead, of what `features` gave: logits [K, classes, 28, 28]; with labels [K] those [K, 28, 28]."""
        third, fourth, rows = features
        last = self.upsample.weight, self.upsample.bias, self.logits.weight, self.logits.bias
        logits = ops.mask_predict(fourth, *last, labels)
        if self.fc is None:
            return logits
        every = self.fc(third, rows)
        return logits + (every[:, None] if labels is None else every)

    def _with_flow(self, x: Tensor | list[Tensor], previous: Tensor, rows: Tensor | None) -> Tensor | list[Tensor]:
        assert self.flow is not None
        if isinstance(x, Tensor) and not self.flow.normalises:
            return ops.mask_flow(x, previous, *self.flow.folded())
        inflow = self.flow(previous, rows).relu_()
        return x + inflow if isinstance(x, Tensor) else [one + inflow for one in x]


def mask_branch(
    heads: nn.ModuleList, x: Tensor | list[Tensor], labels: Tensor, averaged: Sequence[int] | None
) -> Tensor:
    """As `ops.mask_branch`, of PANet's heads, and of others that it does not take.

    x         [K, C, 14, 14], or with adaptive pooling four of them;  labels [K]
    averaged  numbers of the heads whose probabilities are averaged; None: all
    returns   [K, 28, 28] float32; zeros where the label is no class
    """
    averaged = range(len(heads)) if averaged is None else averaged
    features, found = None, []
    for number in range(max(averaged) + 1):
        with part(f"mask stage {number + 1}"):
            features = heads[number].features(x, features)
            if number in averaged:
                found.append(heads[number].predict(features, labels).float().sigmoid())
    known = (labels >= 0) & (labels < heads[0].logits.out_channels)
    return torch.where(known[:, None, None], torch.stack(found).mean(dim=0), 0)
