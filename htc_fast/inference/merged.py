"""Layers that read the same input as one: region proposal networks for inference."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc_fast.inference.fuse import FusedConvolution
from htc_fast.models.conv3x3_relu import Conv3x3ReLU
from htc_fast.models.guided_rpn import GuidedRPN, Outputs
from htc_fast.models.rpn import RPN
from htc_fast.ranges import part

ALIGNED = 8  # outputs of a product: rows of 16 bytes, in 16 bits


def merged_rpn(rpn: RPN | GuidedRPN) -> "MergedRPN | MergedGuidedRPN":
    """The same network, merged."""
    return MergedGuidedRPN(rpn) if isinstance(rpn, GuidedRPN) else MergedRPN(rpn)


class MergedRPN(RPN):
    """As RPN, with the ReLU inside the 3x3 and both 1x1 as one: objectness and deltas are views of its output."""

    def __init__(self, rpn: RPN):
        nn.Module.__init__(self)
        self.config = rpn.config
        self.conv = _with_relu(rpn.conv)
        self.counts = rpn.objectness.out_channels, rpn.deltas.out_channels
        self.merged = _merged(rpn.objectness, rpn.deltas)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As RPN."""
        with part("RPN head"):
            both = [self.merged(self.conv(level)) for level in features]
        objects, deltas = self.counts
        return [one[:, :objects] for one in both], [one[:, objects : objects + deltas] for one in both]


class MergedGuidedRPN(GuidedRPN):
    """As GuidedRPN, with the ReLU inside the 3x3, and the 1x1 of each of the two maps as one."""

    def __init__(self, rpn: GuidedRPN):
        nn.Module.__init__(self)
        self.config = rpn.config
        self.conv = _with_relu(rpn.conv)
        self.anchors, self.boxes = _merged(rpn.location, rpn.shape), _merged(rpn.objectness, rpn.deltas)
        self.adaption = rpn.adaption

    def forward(self, features: list[Tensor]) -> Outputs:
        """As GuidedRPN."""
        with part("RPN head"):
            hidden = [self.conv(level) for level in features]
            anchors = [self.anchors(level) for level in hidden]
            adapted = [self.adaption(level, one[:, 1:3]) for level, one in zip(hidden, anchors, strict=True)]
            boxes = [self.boxes(level) for level in adapted]
        locations, shapes = [one[:, :1] for one in anchors], [one[:, 1:3] for one in anchors]
        return locations, shapes, [one[:, :1] for one in boxes], [one[:, 1:5] for one in boxes]


def stacked(first: nn.Module, second: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of both layers as one, of a number of outputs that is aligned: zeros behind theirs."""
    weight, bias = (torch.cat([getattr(one, name).detach() for one in (first, second)]) for name in ("weight", "bias"))
    missing = -len(weight) % ALIGNED
    return torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])]), F.pad(bias, (0, missing))


def _merged(first: nn.Conv2d, second: nn.Conv2d) -> FusedConvolution:
    weight, bias = stacked(first, second)
    merged = nn.Conv2d(weight.shape[1], len(weight), 1)
    merged.weight, merged.bias = nn.Parameter(weight), nn.Parameter(bias)
    return FusedConvolution(merged, None)


def _with_relu(conv: nn.Conv2d) -> Conv3x3ReLU:
    made = Conv3x3ReLU(conv.in_channels)
    made.weight, made.bias = conv.weight, conv.bias
    return made
