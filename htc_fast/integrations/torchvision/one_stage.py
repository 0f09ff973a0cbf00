"""torchvision's RetinaNet, FCOS and SSD: candidates chosen by their logits, NMS within all classes in one call."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import fcos, retinanet, ssd
from torchvision.ops import boxes as box_ops

from htc_fast import ops
from htc_fast.integrations.torchvision.scripting import Exchanged


def _hidden(x: Tensor) -> bool:
    """Whether a compiler or a tracer looks on, or scores are not in float32."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or x.dtype != torch.float32


def _kept(model: Any, boxes: list[Tensor], scores: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
    """What is left of an image's candidates."""
    box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    keep = ops.batched_nms(box, score, label, model.nms_thresh)[: model.detections_per_img]
    return {"boxes": box[keep], "scores": score[keep], "labels": label[keep]}


def _best(logits: Tensor, centre: Tensor | None, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
    """Scores and places, in the flattened logits [A, classes], of the best that score more than threshold.

    centre  [A, 1] logits or None: then the score is the root of both probabilities' product
    """
    classes = logits.shape[-1]
    # A score is at most its class's probability, or that one's root; the margin is for rounding.
    least = threshold if centre is None else threshold * abs(threshold)
    floor = torch.logit(torch.tensor(min(max(least, 0.0), 1.0), dtype=torch.float64)).item() - 1e-3
    flat = logits.reshape(-1)
    places = torch.where(flat > floor)[0] if floor > -20 else torch.arange(len(flat), device=flat.device)
    scores = flat[places].sigmoid()
    if centre is not None:
        row = torch.div(places, classes, rounding_mode="floor")
        scores = torch.sqrt(scores * centre.reshape(-1).sigmoid()[row])
    keep = torch.where(scores > threshold)[0]
    scores, places = scores[keep], places[keep]
    scores, order = scores.topk(min(limit, len(scores)))
    return scores, places[order]


def _levels(
    model: Any, outputs: dict[str, list[Tensor]], anchors: list[list[Tensor]], sizes: Any, decode: Callable
) -> list[dict[str, Tensor]]:
    """An image's detections from its levels'."""
    detections = []
    for index, size in enumerate(sizes):
        boxes, scores, labels = [], [], []
        for level, logits in enumerate(outputs["cls_logits"]):
            centre = outputs["bbox_ctrness"][level][index] if "bbox_ctrness" in outputs else None
            score, places = _best(logits[index], centre, model.score_thresh, model.topk_candidates)
            row = torch.div(places, logits.shape[-1], rounding_mode="floor")
            box = decode(outputs["bbox_regression"][level][index][row], anchors[index][level][row])
            boxes.append(box_ops.clip_boxes_to_image(box, size))
            scores.append(score)
            labels.append(places % logits.shape[-1])
        detections.append(_kept(model, boxes, scores, labels))
    return detections


class FastRetinaNet(Exchanged, retinanet.RetinaNet):
    """torchvision's."""

    def postprocess_detections(self, head_outputs: Any, anchors: Any, image_shapes: Any) -> list[dict[str, Tensor]]:
        if _hidden(head_outputs["cls_logits"][0]):
            return super().postprocess_detections(head_outputs, anchors, image_shapes)
        return _levels(self, head_outputs, anchors, image_shapes, self.box_coder.decode_single)


class FastFCOS(Exchanged, fcos.FCOS):
    """torchvision's."""

    def postprocess_detections(self, head_outputs: Any, anchors: Any, image_shapes: Any) -> list[dict[str, Tensor]]:
        if _hidden(head_outputs["cls_logits"][0]):
            return super().postprocess_detections(head_outputs, anchors, image_shapes)
        return _levels(self, head_outputs, anchors, image_shapes, self.box_coder.decode)


class FastSSD(Exchanged, ssd.SSD):
    """torchvision's."""

    def postprocess_detections(
        self, head_outputs: Any, image_anchors: Any, image_shapes: Any
    ) -> list[dict[str, Tensor]]:
        logits = head_outputs["cls_logits"]
        if _hidden(logits) or logits.shape[-1] < 2:
            return super().postprocess_detections(head_outputs, image_anchors, image_shapes)
        detections = []
        chances = F.softmax(logits, dim=-1)[..., 1:].transpose(1, 2)
        for moves, scores, anchors, size in zip(head_outputs["bbox_regression"], chances, image_anchors, image_shapes):
            boxes = box_ops.clip_boxes_to_image(self.box_coder.decode_single(moves, anchors), size)
            best, rows = scores.topk(min(self.topk_candidates, scores.shape[1]), dim=1)
            classes = torch.arange(1, 1 + len(best), device=best.device)[:, None].expand_as(best)
            keep = best > self.score_thresh
            detections.append(_kept(self, [boxes[rows[keep]]], [best[keep]], [classes[keep]]))
        return detections


OURS: dict[type, type] = {retinanet.RetinaNet: FastRetinaNet, fcos.FCOS: FastFCOS, ssd.SSD: FastSSD}
