"""Region proposal network: where something might be, on every pyramid level."""

import torch
from torch import Tensor, nn

from htc_fast import ops
from htc_fast.models import config as configs
from htc_fast.models.convolution import Conv2d
from htc_fast.ranges import part

STRIDES = (4, 8, 16, 32, 64)


class RPN(nn.Module):
    """3x3, then 1x1 to one objectness and four deltas per anchor, shared by all levels."""

    def __init__(self, channels: int, config: configs.RPN):
        super().__init__()
        self.config = config
        count = len(config.anchor_ratios)
        self.conv = Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, count, 1)
        self.deltas = nn.Conv2d(channels, 4 * count, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """P2..P6 -> per level objectness logits [N, A, h, w] and deltas [N, 4A, h, w], anchor by anchor."""
        with part("RPN head"):
            hidden = [self.conv(level).relu_() for level in features]
            return [self.objectness(level) for level in hidden], [self.deltas(level) for level in hidden]

    def base_anchors(self) -> list[list[list[float]]]:
        """Per level the anchors x1, y1, x2, y2 of the map's first pixel."""
        levels = []
        for stride in STRIDES:
            side = self.config.anchor_scale * stride
            halves = [(0.5 * side / ratio**0.5, 0.5 * side * ratio**0.5) for ratio in self.config.anchor_ratios]
            if self.config.whole_anchors:
                halves = [(float(round(width)), float(round(height))) for width, height in halves]
            levels.append([[-width, -height, width, height] for width, height in halves])
        return levels

    def steps(self, sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Per level of (h, w) the image's pixels per pixel of the map, down and across."""
        if not self.config.whole_anchors:
            return [(stride, stride) for stride in STRIDES]
        height, width = STRIDES[0] * sizes[0][0], STRIDES[0] * sizes[0][1]
        return [(height // h, width // w) for h, w in sizes]

    def anchors(self, sizes: list[tuple[int, int]], device: torch.device | str) -> list[Tensor]:
        """Per level [h * w * A, 4]: pixel by pixel, row by row, anchors of one pixel side by side."""
        levels = zip(sizes, self.base_anchors(), self.steps(sizes), strict=True)
        return [_level_anchors(*size, base, *steps, device) for size, base, steps in levels]

    def propose(
        self, outputs: tuple[list[Tensor], list[Tensor]], image_sizes: Tensor, limit_per_level: int, limit: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best boxes of all levels after NMS within each.

        outputs          of `forward`
        image_sizes      [N, 2]  height, width before padding: boxes are clipped to it
        limit_per_level  candidates per level before NMS
        limit            R
        returns          boxes [N, R, 4], scores [N, R], valid [N, R] bool; best first, zeros where padded; no gradient
        """
        objectness, deltas = outputs
        return ops.propose(
            objectness,
            deltas,
            self.steps([(level.shape[2], level.shape[3]) for level in objectness]),
            image_sizes,
            self.base_anchors(),
            per_level=limit_per_level,
            limit=limit,
            iou_threshold=self.config.nms_iou,
        )


def _level_anchors(
    height: int, width: int, base: list[list[float]], down: int, across: int, device: torch.device | str
) -> Tensor:
    # Constants are filled in, not copied from the host.
    rows = torch.stack([torch.full((), value, device=device) for row in base for value in row]).view(-1, 4)
    x = torch.arange(width, device=device, dtype=torch.float32) * across
    y = torch.arange(height, device=device, dtype=torch.float32) * down
    y, x = torch.meshgrid(y, x, indexing="ij")
    centre = torch.stack([x, y, x, y], dim=2)
    return (centre[:, :, None] + rows).reshape(-1, 4)
