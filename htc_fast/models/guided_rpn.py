"""Region proposals by guided anchoring: at each place one anchor, whose shape is predicted, and whether one is there.

Every place begins with a square. Its predicted width and height make it the guided anchor, which objectness and deltas
then refer to; they see features that were gathered where the shape says.
"""

import math

import torch
from torch import Tensor, nn

from htc_fast import ops
from htc_fast.errors import UserError
from htc_fast.models import config as configs
from htc_fast.models.convolution import Conv2d
from htc_fast.models.deformable import deformable_convolution
from htc_fast.models.rpn import STRIDES
from htc_fast.ops.reference.boxes import decode_boxes, row
from htc_fast.ops.reference.propose import chosen, level_anchors
from htc_fast.ranges import part

SHAPE_STD = 0.14  # of a shape's logarithms
LARGEST_SHAPE = math.log(1e6)  # a side differs from its square's by this factor at most
DELTA_STD = (0.07, 0.07, 0.11, 0.11)  # of what moves guided anchors
LEAST_LOCATION = 0.01  # probability below which a place proposes nothing
GROUPS = 4  # of channels that are gathered at places of their own
OCTAVE = tuple(2 ** (i / 3) for i in range(3))

Outputs = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


class Adaption(nn.Module):
    """A deformable 3x3 with ReLU, whose offsets are a linear map of the predicted shape, and teach it nothing."""

    def __init__(self, channels: int):
        super().__init__()
        self.offsets = nn.Conv2d(2, GROUPS * 2 * 9, 1, bias=False)
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.normal_(self.offsets.weight, std=0.1)
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        """x [N, C, h, w], shape [N, 2, h, w] -> [N, C, h, w] of x's type."""
        gathered = deformable_convolution(x, self.offsets(shape.detach()), self.weight, padding=(1, 1))
        return gathered.relu_().to(x.dtype)


class GuidedRPN(nn.Module):
    """3x3; 1x1 to one location and one shape; a deformable 3x3 by that shape; 1x1 to one objectness and four deltas.

    raises  UserError for whole anchors, or channels that are not groups of four
    source  Wang et al., Region Proposal by Guided Anchoring, CVPR 2019; constants as mmdetection's GA-RPN has them
    """

    def __init__(self, channels: int, config: configs.RPN):
        super().__init__()
        if config.whole_anchors:
            raise UserError(
                "guided anchors have any size, so they cannot be whole pixels: leave rpn_whole_anchors or rpn_guided."
            )
        if channels % GROUPS:
            raise UserError(
                f"guided anchoring gathers channels in {GROUPS} groups: channels must be a multiple of {GROUPS}, got "
                f"{channels}."
            )
        self.config = config
        self.conv = Conv2d(channels, channels, 3, padding=1)
        self.location = nn.Conv2d(channels, 1, 1)
        self.shape = nn.Conv2d(channels, 2, 1)
        self.adaption = Adaption(channels)
        self.objectness = nn.Conv2d(channels, 1, 1)
        self.deltas = nn.Conv2d(channels, 4, 1)
        for layer in (self.conv, self.location, self.shape, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        # At first a place is one in a hundred times: most are background.
        nn.init.constant_(self.location.bias, -math.log(99))

    def forward(self, features: list[Tensor]) -> Outputs:
        """P2..P6 -> per level location logits [N, 1, h, w], shapes [N, 2, h, w] (logarithms of width and height),
        objectness logits [N, 1, h, w] and deltas [N, 4, h, w]."""
        with part("RPN head"):
            hidden = [self.conv(level).relu_() for level in features]
            locations = [self.location(level) for level in hidden]
            shapes = [self.shape(level) for level in hidden]
            adapted = [self.adaption(level, shape) for level, shape in zip(hidden, shapes, strict=True)]
            return locations, shapes, [self.objectness(one) for one in adapted], [self.deltas(one) for one in adapted]

    def squares(self, sizes: list[tuple[int, int]], device: torch.device | str) -> list[Tensor]:
        """Per level of (h, w) the squares that anchors are made of, [h * w, 4]: pixel by pixel, row by row."""
        levels = []
        for (height, width), stride in zip(sizes, STRIDES, strict=True):
            half = 0.5 * self.config.anchor_scale * stride
            base = row((-half, -half, half, half), torch.empty(0, device=device))
            levels.append(level_anchors(height, width, base[None], stride, stride))
        return levels

    def approximations(self, squares: Tensor) -> list[Tensor]:
        """What stands for all shapes that a place could have: three sizes of each ratio around squares [A, 4]."""
        factors = [(size / ratio**0.5, size * ratio**0.5) for size in OCTAVE for ratio in self.config.anchor_ratios]
        return [resized(squares, row(one, squares)) for one in factors]

    @torch.no_grad()
    def propose(
        self,
        outputs: Outputs,
        image_sizes: Tensor,
        limit_per_level: int,
        limit: int,
        least_location: float = LEAST_LOCATION,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best boxes of all levels after NMS within each.

        outputs          of `forward`
        image_sizes      [N, 2]  height, width before padding: boxes are clipped to it
        limit_per_level  candidates per level before NMS
        limit            R
        least_location   probability from which a place proposes; 0: all do, as in training
        returns          boxes [N, R, 4], scores [N, R], valid [N, R] bool; best first, zeros where padded; no gradient.
                         Equal logits, and what is not finite, as `ops.propose` has them
        """
        squares = self.squares([(level.shape[2], level.shape[3]) for level in outputs[0]], image_sizes.device)
        found = []
        for number, maps in enumerate(zip(*outputs, squares, strict=True)):
            location, shape, scores, moves, base = maps
            logits = scores.flatten(1).float()
            taken = logits.isfinite() & (location.flatten(1).float().sigmoid() >= least_location)
            # Stable, since places that look outside the map all score alike.
            best = logits.masked_fill(~taken, -torch.inf).sort(dim=1, descending=True, stable=True)
            logits, index = best.values[:, :limit_per_level], best.indices[:, :limit_per_level]
            anchors = guided(base[index], _at(shape, index))
            changes = _at(moves, index)
            boxes = decode_boxes(changes, anchors, DELTA_STD, image_sizes)
            real = changes.isfinite().all(dim=2) & (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
            found.append((boxes, logits.masked_fill(~real, -torch.inf), torch.full_like(index, number)))
        candidates, logits, levels = (torch.cat(one, dim=1) for one in zip(*found, strict=True))
        indices, _ = ops.batched_nms_padded(candidates, logits, levels, self.config.nms_iou, limit)
        return chosen(candidates, logits, indices)


def resized(squares: Tensor, factors: Tensor) -> Tensor:
    """Boxes [..., 4] around the same centres, width and height multiplied by factors [..., 2] (broadcast)."""
    centre, half = (squares[..., :2] + squares[..., 2:]) * 0.5, (squares[..., 2:] - squares[..., :2]) * 0.5
    half = half * factors
    centre = centre.expand_as(half)
    return torch.cat([centre - half, centre + half], dim=-1)


def guided(squares: Tensor, shape: Tensor) -> Tensor:
    """Guided anchors [..., 4] of squares [..., 4] and their predicted shapes [..., 2]; gradients flow to the shapes."""
    return resized(squares, (shape.float() * SHAPE_STD).clamp(-LARGEST_SHAPE, LARGEST_SHAPE).exp())


def _at(maps: Tensor, index: Tensor) -> Tensor:
    """Maps [N, C, h, w] at places [N, K] -> [N, K, C] float32."""
    return maps.flatten(2).gather(2, index[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2).float()
