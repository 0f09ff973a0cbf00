"""Mask head of one stage (paper, figure 2): four convolutions, with the previous head's features flowing in."""

from torch import Tensor, nn

from htc_fast import ops
from htc_fast.models.conv3x3_relu import Conv3x3ReLU
from htc_fast.models.convolution import Convolution, by_fan_out

RESOLUTION = 14


class MaskHead(nn.Module):
    """RoI features [K, C, 14, 14] -> mask features of the same shape -> one 28 x 28 logit map per class.

    norm  a batch norm follows the four convolutions and the flow's
    """

    def __init__(self, channels: int, classes: int, flow: bool, norm: bool = False):
        super().__init__()
        self.flow = Convolution(channels, channels, 1, norm) if flow else None
        self.convs = nn.ModuleList(Conv3x3ReLU(channels, norm) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, classes, 1)
        by_fan_out(*self.convs, self.upsample, *([self.flow] if self.flow is not None else []))
        # By fan-out, few classes would start with huge logits and diverge.
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.zeros_(self.logits.bias)

    def features(self, x: Tensor, previous: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """x [K, C, 14, 14] and, with information flow, the previous head's features -> this head's features.

        rows  which of the K are real, for norms in training; None: all
        """
        if self.flow is not None and previous is not None:
            if self.flow.normalises:
                x = x + self.flow(previous, rows).relu_()
            else:
                x = ops.mask_flow(x, previous, *self.flow.folded())
        for conv in self.convs:
            x = conv(x, rows)
        return x

    def predict(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """features [K, C, 14, 14] -> logits [K, classes, 28, 28]; with labels [K] those of one class [K, 28, 28]."""
        return ops.mask_predict(features, *self._last(), labels)

    def weights(self) -> ops.MaskHeadWeights:
        """What `ops.mask_branch` takes."""
        layers = [conv.folded() for conv in self.convs]
        flow = None if self.flow is None else self.flow.folded()
        up_weight, up_bias, weight, bias = self._last()
        packed = tuple(conv.packed for conv in self.convs if conv.packed is not None)
        return ops.MaskHeadWeights(tuple(layers), (up_weight, up_bias), (weight, bias), flow, packed)

    def _last(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.upsample.weight, self.upsample.bias, self.logits.weight, self.logits.bias
