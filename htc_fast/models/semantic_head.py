"""The semantic branch (paper, figure 3): the whole pyramid fused at stride 8, four convolutions, two outputs."""

from torch import Tensor, nn

from htc_fast import ops
from htc_fast.models import gcn as long_kernels
from htc_fast.models.conv3x3_relu import Conv1x1ReLU, Conv3x3ReLU
from htc_fast.models.convolution import Convolution, by_fan_out


class SemanticHead(nn.Module):
    """P2..P6 -> the feature S that boxes and masks take in, and per-pixel class logits.

    gcn   the levels come in through long kernels instead of 1x1
    norm  a batch norm follows each convolution but the logits' and the long kernels'
    """

    FUSED_LEVEL = 1  # P3, stride 8

    def __init__(self, channels: int, classes: int, gcn: bool = False, norm: bool = False, levels: int = 5):
        super().__init__()
        self.gcn = gcn
        self.lateral = nn.ModuleList(
            long_kernels.GCN(channels) if gcn else Convolution(channels, channels, 1, norm) for _ in range(levels)
        )
        self.convs = nn.ModuleList(Conv3x3ReLU(channels, norm) for _ in range(4))
        self.embedding = Conv1x1ReLU(channels, norm)
        self.logits = nn.Conv2d(channels, classes, 1)
        by_fan_out(*(() if gcn else self.lateral), *self.convs, self.embedding)
        # By fan-out, few classes would start with huge logits and diverge.
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.zeros_(self.logits.bias)

    def forward(self, features: list[Tensor], logits: bool = True) -> tuple[Tensor, Tensor | None]:
        """P2..P6 [N, C, H_l, W_l] -> S [N, C, H/8, W/8] and logits [N, classes, H/8, W/8] (None if not wanted)."""
        x = self.merge(features)
        for conv in self.convs:
            x = conv(x)
        return self.embedding(x), self.logits(x) if logits else None

    def merge(self, features: list[Tensor]) -> Tensor:
        """Resampled to stride 8, each level through its 1x1 and ReLU, summed: the ReLU comes before the sum."""
        if self.gcn:
            return long_kernels.merge(features, self.lateral, self.FUSED_LEVEL)
        if any(conv.normalises for conv in self.lateral):
            return self._merge_normalised(features)
        weights, biases = zip(*(conv.folded() for conv in self.lateral))
        return ops.semantic_merge(features, weights, biases, level=self.FUSED_LEVEL)

    def _merge_normalised(self, features: list[Tensor]) -> Tensor:
        """The same with norms in training, whose batch is the resampled maps."""
        height, width = features[self.FUSED_LEVEL].shape[2:]
        merged: list[Tensor] = []
        for x, conv in zip(features, self.lateral):
            # Bilinear weights sum to 1, so the 1x1 may come first, where there are fewer pixels.
            before = x.shape[2] * x.shape[3] > height * width
            x = conv.convolved(long_kernels.resampled(x, (height, width)) if before else x)
            merged.append(conv.normalised(x if before else long_kernels.resampled(x, (height, width))).relu_())
        return sum(merged[1:], merged[0])
