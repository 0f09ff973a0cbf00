"""Region proposal network: where something might be, on every pyramid level."""

import torch
from torch import Tensor, nn

from htc_fast import ops
from htc_fast.models import config as configs
from htc_fast.models.geometry import decode_boxes
from htc_fast.ranges import part

STRIDES = (4, 8, 16, 32, 64)


class RPN(nn.Module):
    """3x3, then 1x1 to one objectness and four deltas per anchor, shared by all levels."""

    def __init__(self, channels: int, config: configs.RPN):
        super().__init__()
        self.config = config
        count = len(config.anchor_ratios)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
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

    def anchors(self, sizes: list[tuple[int, int]], device: torch.device | str) -> list[Tensor]:
        """Per level [h * w * A, 4]: pixel by pixel, row by row, anchors of one pixel side by side."""
        whole = STRIDES[0] * sizes[0][0], STRIDES[0] * sizes[0][1]
        return [self._level_anchors(*size, stride, device, whole) for size, stride in zip(sizes, STRIDES, strict=True)]

    def _level_anchors(
        self, height: int, width: int, stride: int, device: torch.device | str, image: tuple[int, int]
    ) -> Tensor:
        side = self.config.anchor_scale * stride
        # Constants are filled in, not copied from the host.
        half_width = torch.stack(
            [torch.full((), 0.5 * side / r**0.5, device=device) for r in self.config.anchor_ratios]
        )
        half_height = torch.stack(
            [torch.full((), 0.5 * side * r**0.5, device=device) for r in self.config.anchor_ratios]
        )
        base = torch.stack([-half_width, -half_height, half_width, half_height], dim=1)
        down = across = stride
        if self.config.whole_anchors:
            base, down, across = base.round(), image[0] // height, image[1] // width
        x = torch.arange(width, device=device, dtype=torch.float32) * across
        y = torch.arange(height, device=device, dtype=torch.float32) * down
        y, x = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack([x, y, x, y], dim=2)
        return (centre[:, :, None] + base).reshape(-1, 4)

    @torch.no_grad()
    def propose(
        self, objectness: list[Tensor], deltas: list[Tensor], image_sizes: Tensor, limit_per_level: int, limit: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best boxes of all levels after NMS within each.

        image_sizes      [N, 2]  height, width before padding: boxes are clipped to it
        limit_per_level  candidates per level before NMS
        limit            R
        returns          boxes [N, R, 4], scores [N, R], valid [N, R] bool; best first, zeros where padded
        """
        anchors = self.anchors([(level.shape[2], level.shape[3]) for level in objectness], image_sizes.device)
        boxes, scores, levels = [], [], []
        for number, (anchor, objects, offsets) in enumerate(zip(anchors, objectness, deltas)):
            score = objects.permute(0, 2, 3, 1).flatten(1).float().sigmoid()
            offsets = offsets.permute(0, 2, 3, 1).reshape(len(score), -1, 4)
            count = min(limit_per_level, score.shape[1])
            order = score.argsort(dim=1, descending=True, stable=True)[:, :count]
            offsets = offsets.gather(1, order[..., None].expand(-1, -1, 4))
            boxes.append(decode_boxes(offsets, anchor[order], (1.0, 1.0, 1.0, 1.0), image_sizes))
            scores.append(score.gather(1, order))
            levels.append(torch.full_like(order, number))
        return _suppress(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels, 1), self.config.nms_iou, limit)


def _suppress(boxes: Tensor, scores: Tensor, levels: Tensor, iou: float, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    real = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    scores = scores.masked_fill(~real, -torch.inf)
    # Real scores are at least 0. A finite threshold, since compiled programs store no infinity among their arguments.
    indices, _ = ops.batched_nms_padded(boxes, scores, levels, iou, limit, -1.0)
    valid = indices >= 0
    indices = indices.clamp(min=0)
    boxes = boxes.gather(1, indices[..., None].expand(-1, -1, 4)).masked_fill(~valid[..., None], 0.0)
    return boxes, scores.gather(1, indices).masked_fill(~valid, 0.0), valid
