"""One look at a picture: a detector's features of it in one size, mirrored or not, and what it says from them."""

import contextlib

import torch
from torch import Tensor

from htc_fast.data.pictures import normalise_and_pad
from htc_fast.models.backbone import Backbone
from htc_fast.models.htc import HTC
from htc_fast.ops.reference import detections as plain
from htc_fast.ops.reference.boxes import row
from htc_fast.ranges import part

Size = tuple[int, int]  # height, width


class View:
    """A detector and its features of one picture.

    Boxes come from a common frame of the picture, (height, width), and go back there.
    """

    def __init__(self, network: HTC, pixels: Tensor, flipped: bool):
        """pixels uint8 [3, h, w], resized but neither mirrored nor padded"""
        self.network, self.flipped = network, flipped
        self.size = (pixels.shape[1], pixels.shape[2])
        with part("preprocess"):
            # Mirrored before it is padded: padding is always at the right and below.
            pixels = pixels.flip(2) if flipped else pixels
            images, self.image_sizes = normalise_and_pad(
                [pixels], network.config.mean, network.config.std, pixels.device
            )
        # What was made ready for inference casts images itself, and autocast would undo its types.
        ready = not isinstance(network.backbone, Backbone)
        self.precision: contextlib.AbstractContextManager = contextlib.nullcontext()
        if ready:
            self.precision = torch.autocast(pixels.device.type, enabled=False)
        else:
            images = images.to(next(network.parameters()).dtype)
        with self.precision:
            self.features = network.extract(images)
            self.semantic, _ = network.semantic(self.features, logits=False)
            self.context, _ = network.context(self.features)

    def proposals(self, frame: Size) -> tuple[Tensor, Tensor, Tensor]:
        """boxes [1, P, 4], scores [1, P] as probabilities, valid [1, P] bool."""
        with self.precision:
            boxes, scores, valid = self.network.propose(self.features, self.image_sizes)
        return self._leave(boxes, frame), scores, valid

    def refined(self, proposals: Tensor, frame: Size) -> tuple[Tensor, Tensor]:
        """proposals [1, R, 4] -> scores [1, R, classes] and where each class sees them [1, R, 1 | classes, 4]."""
        config, proposals = self.network.config, self._enter(proposals, frame)
        with self.precision:
            given = self.features, self.semantic, proposals, self.image_sizes, self.context
            logits, deltas, boxes = self.network.cascade(*given)
        with part("detections"):
            scores = plain.ensemble(logits, config.score_average == "logits")
            std = config.stages.delta_std[config.last_stage]
            found = plain.decoded(deltas, boxes, std, self.image_sizes, config.num_classes)
            return scores, self._leave(found, frame)

    def masks(self, boxes: Tensor, labels: Tensor, count: Tensor, frame: Size) -> Tensor:
        """boxes [1, D, 4], labels [1, D], count [1] -> mean probabilities of the stages, as the picture lies:
        [1, D, 28, 28]."""
        with self.precision:
            found = self._enter(boxes, frame)
            masks = self.network.masks(self.features, self.semantic, found, labels, count, self.context)
        return masks.flip(3) if self.flipped else masks

    def _leave(self, boxes: Tensor, frame: Size) -> Tensor:
        return scaled(self._turned(boxes), self.size, frame)

    def _enter(self, boxes: Tensor, frame: Size) -> Tensor:
        return self._turned(scaled(boxes, frame, self.size))

    def _turned(self, boxes: Tensor) -> Tensor:
        if not self.flipped:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        return torch.stack([self.size[1] - x2, y1, self.size[1] - x1, y2], dim=-1)


def scaled(boxes: Tensor, before: Size, after: Size) -> Tensor:
    """boxes [..., 4] of a picture of one (height, width) in the same picture of another."""
    if before == after:
        return boxes
    down, across = after[0] / before[0], after[1] / before[1]
    return boxes * row([across, down, across, down], boxes)
