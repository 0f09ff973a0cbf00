"""torchvision's R-CNN family: proposals in one call, detections in one call, masks of the predicted classes alone."""

import math
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import _utils, anchor_utils, faster_rcnn, keypoint_rcnn, mask_rcnn, roi_heads, rpn
from torchvision.models.detection.image_list import ImageList

from htc_fast import ops
from htc_fast.integrations import _layers
from htc_fast.integrations.torchvision import backbones, keypoints, masks, pooling
from htc_fast.integrations.torchvision.scripting import Exchanged

LARGEST = math.log(1000 / 16)  # by which our operators let a side grow, and shrink; torchvision's shrink at will
TINY = 1e-2  # pixels: torchvision leaves out detections with a smaller side
# A score from which on so many logits give one number that torchvision's order, by level, is not that of the logits.
TIED = 0.9999
FLAT_HEADS = faster_rcnn.TwoMLPHead, backbones.FastFastRCNNConvFCHead  # to which a layout in memory is all the same


def _busy(x: Any) -> bool:
    """Whether autocast, a compiler or a tracer looks on, or maps are not in float32."""
    off = torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling() or torch.jit.is_tracing()
    return off or x.dtype != torch.float32


def _plain_coder(coder: Any) -> bool:
    """Whether deltas are decoded as our operators do."""
    return type(coder) is _utils.BoxCoder and not _layers.patched(coder) and abs(coder.bbox_xform_clip - LARGEST) < 1e-9


class FastRegionProposalNetwork(Exchanged, rpn.RegionProposalNetwork):
    """torchvision's."""

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        maps = list(features.values())
        if not self._one_call(maps):
            return super().forward(images, features, targets)
        objectness, deltas = self.head(maps)
        boxes = self._in_one_call(images, objectness, deltas)
        if boxes is not None and not self.training:
            return boxes, {}
        anchors = self.anchor_generator(images, maps)
        logits, moves = rpn.concat_box_prediction_layers(objectness, deltas)
        if boxes is None:
            places = self.box_coder.decode(moves.detach(), anchors).view(len(anchors), -1, 4)
            boxes, _ = self.filter_proposals(places, logits, images.image_sizes, [one[0].numel() for one in objectness])
        return boxes, self._losses(anchors, logits, moves, targets) if self.training else {}

    def _in_one_call(self, images: ImageList, objectness: list[Tensor], deltas: list[Tensor]) -> list[Tensor] | None:
        """None where torchvision would choose others: scores are one number, or a side shrinks further than ours."""
        height, width = images.tensors.shape[-2:]
        least = torch.stack([one.detach().unflatten(1, (-1, 4))[:, :, 2:].amin() for one in deltas]).amin()
        found, scores, valid = ops.propose(
            objectness,
            deltas,
            [(height // one.shape[-2], width // one.shape[-1]) for one in deltas],
            torch.tensor(images.image_sizes, device=least.device),
            [one.cpu() for one in self.anchor_generator.cell_anchors],
            per_level=self.pre_nms_top_n(),
            limit=self.post_nms_top_n(),
            iou_threshold=self.nms_thresh,
            min_size=self.min_size,
        )
        if bool((scores[:, -1] > TIED).any() | (least < -LARGEST)):
            return None
        return [one[keep] for one, keep in zip(found, valid)]

    def _losses(self, anchors: list[Tensor], logits: Tensor, moves: Tensor, targets: Any) -> dict[str, Tensor]:
        if targets is None:
            raise ValueError("targets should not be None")
        labels, boxes = self.assign_targets_to_anchors(anchors, targets)
        wanted = self.box_coder.encode(boxes, anchors)
        loss, box_loss = self.compute_loss(logits, moves, labels, wanted)
        return {"loss_objectness": loss, "loss_rpn_box_reg": box_loss}

    def _one_call(self, maps: list[Tensor]) -> bool:
        """Whether `ops.propose` says what these settings ask for."""
        made = self.anchor_generator
        if _layers.patched(self) or self.min_size <= 0:  # torchvision keeps boxes without area where it is 0
            return False
        if not maps or type(made) is not anchor_utils.AnchorGenerator or _layers.hooked(made) or _busy(maps[0]):
            return False
        few = len(made.cell_anchors) == len(maps) <= 8 and sum(map(len, made.cell_anchors)) <= 128
        coder = _plain_coder(self.box_coder) and tuple(self.box_coder.weights) == (1.0, 1.0, 1.0, 1.0)
        return few and coder and self.score_thresh <= 0 and self.pre_nms_top_n() > 0 and self.post_nms_top_n() > 0


class FastRoIHeads(Exchanged, roi_heads.RoIHeads):
    """torchvision's."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        watched = _layers.patched(self) or _busy(next(iter(features.values())))
        if self.training or targets is not None or watched:
            return super().forward(features, proposals, image_shapes, targets)
        flat = isinstance(self.box_head, FLAT_HEADS)
        found = self.box_head(_pooled(self.box_roi_pool, features, proposals, image_shapes, flat))
        logits, deltas = self.box_predictor(found)
        boxes, scores, labels = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        result = [{"boxes": one, "labels": own, "scores": score} for one, own, score in zip(boxes, labels, scores)]
        if self.has_mask():
            flat = isinstance(self.mask_head, backbones.FastMaskRCNNHeads)
            maps = self.mask_head(_pooled(self.mask_roi_pool, features, boxes, image_shapes, flat))
            chances = masks.probabilities(self.mask_predictor, maps, labels)
            chances = roi_heads.maskrcnn_inference(self.mask_predictor(maps), labels) if chances is None else chances
            for one, mask in zip(result, chances):
                one["masks"] = mask
        if self.has_keypoint():
            points = self.keypoint_head(self.keypoint_roi_pool(features, boxes, image_shapes))
            split = self.keypoint_predictor(points).split([len(one) for one in boxes])
            for one, heat in zip(result, split):
                one["keypoints"], one["keypoints_scores"] = keypoints.largest(heat, one["boxes"])
        return result, {}

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: Any
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        found = None
        usual = class_logits.dtype == box_regression.dtype == torch.float32 and self.detections_per_img > 0
        if usual and not _busy(class_logits) and _plain_coder(self.box_coder):
            found = self._in_one_call(class_logits, box_regression, proposals, image_shapes)
        if found is None:
            return super().postprocess_detections(class_logits, box_regression, proposals, image_shapes)
        return found

    def _in_one_call(
        self, logits: Tensor, deltas: Tensor, proposals: list[Tensor], image_shapes: Any
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]] | None:
        """None where torchvision leaves out what has next to no width or height, or a side shrinks further."""
        counts = [len(one) for one in proposals]
        if deltas.shape[1] != 4 * logits.shape[1] or logits.shape[1] < 2 or not all(counts):
            return None
        least = deltas.detach().unflatten(1, (-1, 4))[:, 1:, 2:].amin()
        if bool(least < -LARGEST * min(self.box_coder.weights[2:])):
            return None
        # Our operators have the background last.
        logits, deltas = torch.cat([logits[:, 1:], logits[:, :1]], dim=1), deltas[:, 4:].contiguous()
        images = []
        for one, moves, before, size in zip(logits.split(counts), deltas.split(counts), proposals, image_shapes):
            found = self._of_one_image(one, moves, before, size)
            if found is None:
                return None
            images.append(found)
        boxes, scores, labels = (list(one) for one in zip(*images))
        return boxes, scores, labels

    def _of_one_image(self, logits: Tensor, deltas: Tensor, before: Tensor, size: Any) -> tuple[Tensor, ...] | None:
        limit, most = self.detections_per_img, deltas.numel() // 4
        while True:
            box, score, label, count = ops.detections(
                [logits[None]],
                deltas[None],
                before[None],
                None,
                torch.tensor([list(size)], device=before.device),
                std=[1 / weight for weight in self.box_coder.weights],
                score_average="logits",
                score_threshold=self.score_thresh,
                iou_threshold=self.nms_thresh,
                limit=limit,
            )
            number = int(count[0])
            if bool((score[0, :number] > TIED).any()):
                return None
            sides = (box[0, :number, 2:] - box[0, :number, :2]).amin(dim=1)
            keep = sides >= TINY
            if bool((~keep & (sides > 0)).any()):
                return None  # which suppressed others, perhaps
            if bool(keep.all()) or int(keep.sum()) >= self.detections_per_img or number < limit or limit >= most:
                kept = [one[0, :number][keep][: self.detections_per_img] for one in (box, score, label)]
                return kept[0], kept[1], kept[2] + 1
            limit = min(4 * limit, most)


def _pooled(module: Any, features: Any, boxes: list[Tensor], image_shapes: Any, flat: bool) -> Tensor:
    """module(features, boxes, image_shapes); flat: the layout in memory may be as it comes."""
    if flat and type(module) in pooling.OWN and not _layers.hooked(module):
        return pooling.pool(module, features, boxes, image_shapes)
    return module(features, boxes, image_shapes)


class FastFasterRCNN(Exchanged, faster_rcnn.FasterRCNN):
    """torchvision's."""


class FastMaskRCNN(Exchanged, mask_rcnn.MaskRCNN):
    """torchvision's."""


class FastKeypointRCNN(Exchanged, keypoint_rcnn.KeypointRCNN):
    """torchvision's."""


OURS: dict[type, type] = {
    faster_rcnn.FasterRCNN: FastFasterRCNN,
    mask_rcnn.MaskRCNN: FastMaskRCNN,
    keypoint_rcnn.KeypointRCNN: FastKeypointRCNN,
    rpn.RegionProposalNetwork: FastRegionProposalNetwork,
    roi_heads.RoIHeads: FastRoIHeads,
    pooling.Theirs: pooling.FastMultiScaleRoIAlign,
    masks.transform.GeneralizedRCNNTransform: masks.FastGeneralizedRCNNTransform,
}
