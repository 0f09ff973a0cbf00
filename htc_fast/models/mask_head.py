"""Mask head of one stage (paper, figure 2): four convolutions, with the previous head's features flowing in."""

import torch
from torch import Tensor, nn

RESOLUTION = 14


class MaskHead(nn.Module):
    """RoI features [K, C, 14, 14] -> mask features of the same shape -> one 28 x 28 logit map per class."""

    def __init__(self, channels: int, classes: int, flow: bool):
        super().__init__()
        self.flow = nn.Conv2d(channels, channels, 1) if flow else None
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, classes, 1)
        for layer in [*self.convs, self.upsample, *([self.flow] if flow else [])]:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        # By fan-out, few classes would start with huge logits and diverge.
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.zeros_(self.logits.bias)

    def features(self, x: Tensor, previous: Tensor | None = None) -> Tensor:
        """x [K, C, 14, 14] and, with information flow, the previous head's features -> this head's features."""
        if self.flow is not None and previous is not None:
            x = x + self.flow(previous).relu()
        for conv in self.convs:
            x = conv(x).relu_()
        return x

    def predict(self, features: Tensor) -> Tensor:
        """features [K, C, 14, 14] -> logits [K, classes, 28, 28]."""
        return self.logits(self.upsample(features).relu_())

    def predict_class(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [K, C, 14, 14], labels [K] -> logits [K, 28, 28] of each RoI's own class, no other."""
        labels = labels.clamp(min=0)
        x = self.upsample(features).relu_()
        weight = self.logits.weight[labels].flatten(1)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        logits = torch.bmm(pixels, weight[:, :, None].to(pixels.dtype))[..., 0]
        return (logits + self.logits.bias[labels][:, None]).unflatten(1, x.shape[-2:])
