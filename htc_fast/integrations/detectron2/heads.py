"""The ends of detectron2's box heads, and its mask head, as classes of ours."""

from typing import Any

import torch
from detectron2 import structures
from detectron2.modeling.box_regression import Box2BoxTransform as Transform
from detectron2.modeling.roi_heads import cascade_rcnn, fast_rcnn, mask_head
from torch import Tensor

from htc_fast import ops
from htc_fast.integrations.detectron2.boxes import batched_nms
from htc_fast.integrations.detectron2.convolutions import plain

MOST = 1e6  # deltas and proposals below it give finite boxes


class FastRCNNOutputLayers(fast_rcnn.FastRCNNOutputLayers):
    """Only boxes whose class scores enough are moved."""

    def inference(self, predictions: Any, proposals: Any) -> Any:
        scores, deltas = predictions
        usual = isinstance(self.box2box_transform, Transform) and len(proposals) and not torch.jit.is_tracing()
        boxes = torch.cat([one.proposal_boxes.tensor for one in proposals]) if usual else deltas
        probabilities = torch.softmax(scores, dim=-1)
        if not usual or not _small(deltas, boxes, probabilities):
            return super().inference(predictions, proposals)
        counts = [len(one) for one in proposals]
        found = []
        for scores, moves, places, one in zip(*(t.split(counts) for t in (probabilities, deltas, boxes)), proposals):
            rows, classes = _wanted(scores, self.test_score_thresh)
            moves = moves.unflatten(1, (-1, 4))
            moves = moves[rows, classes if moves.shape[1] > 1 else 0]
            chosen = self.box2box_transform.apply_deltas(moves, places[rows])
            found.append(_suppressed(self, chosen, scores[rows, classes], rows, classes, one.image_size))
        return [one[0] for one in found], [one[1] for one in found]


def _small(*tensors: Tensor) -> bool:
    """Nothing that is NaN or large."""
    return all(bool((one.abs() < MOST).all()) for one in tensors)


def _wanted(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Rows and classes of scores [R, K + 1], background last, that are above the threshold."""
    rows, classes = (scores[:, :-1] > threshold).nonzero().unbind(1)
    return rows, classes


def _suppressed(layer: Any, boxes: Tensor, scores: Tensor, rows: Tensor, classes: Tensor, size: Any) -> tuple:
    """The best of an image's boxes [n, 4] as detectron2 hands them out, and the rows that they came from."""
    clipped = structures.Boxes(boxes)
    clipped.clip(size)
    keep = batched_nms(clipped.tensor, scores, classes, layer.test_nms_thresh)
    keep = keep[: layer.test_topk_per_image] if layer.test_topk_per_image >= 0 else keep
    found = {"pred_boxes": clipped[keep], "scores": scores[keep], "pred_classes": classes[keep]}
    return structures.Instances(size, **found), rows[keep]


class CascadeROIHeads(cascade_rcnn.CascadeROIHeads):
    def _forward_box(self, features: Any, proposals: Any, targets: Any = None) -> Any:
        if self.training or torch.jit.is_tracing() or not proposals:
            return super()._forward_box(features, proposals, targets)
        maps = [features[name] for name in self.box_in_features]
        sizes = [one.image_size for one in proposals]
        stages: list = []
        boxes: Any = None
        for number, predictor in enumerate(self.box_predictor):
            if number:
                proposals = self._create_proposals_from_boxes(boxes, sizes)
            predictions = self._run_stage(maps, proposals, number)
            boxes = predictor.predict_boxes(predictions, proposals)
            stages.append(predictor.predict_probs(predictions, proposals))
        averages = [sum(one) * (1.0 / self.num_cascade_stages) for one in zip(*stages)]
        if not _small(*boxes, *averages):
            limits = predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image
            return fast_rcnn.fast_rcnn_inference(boxes, averages, sizes, *limits)[0]
        found = []
        for scores, places, size in zip(averages, boxes, sizes):
            rows, classes = _wanted(scores, predictor.test_score_thresh)
            places = places.unflatten(1, (-1, 4))
            places = places[rows, classes if places.shape[1] > 1 else 0]
            found.append(_suppressed(predictor, places, scores[rows, classes], rows, classes, size)[0])
        return found


class MaskRCNNConvUpsampleHead(mask_head.MaskRCNNConvUpsampleHead):
    """Of each box, the mask of its class alone."""

    def forward(self, x: Any, instances: Any) -> Any:
        if self.training or torch.jit.is_tracing() or not len(x) or not self._usual():
            return super().forward(x, instances)
        for conv in self.conv_norm_relus:
            x = conv(x)
        classes = torch.cat([one.pred_classes for one in instances])
        classes = classes if self.predictor.out_channels > 1 else torch.zeros_like(classes)
        up, last = self.deconv, self.predictor
        masks = ops.mask_predict(x, up.weight, up.bias, last.weight, last.bias, classes).sigmoid()[:, None]
        for one, own in zip(instances, masks.split([len(one) for one in instances])):
            one.pred_masks = own
        return instances

    def _usual(self) -> bool:
        up, last = self.deconv, self.predictor
        names = [f"mask_fcn{number + 1}" for number in range(len(self.conv_norm_relus))]
        return (
            list(self._modules) == [*names, "deconv", "deconv_relu", "predictor"]
            and plain(last, 1)
            and last.norm is None
            and last.activation is None
            and last.bias is not None
            and up.bias is not None
            and (up.kernel_size, up.stride, up.padding, up.groups) == ((2, 2), (2, 2), (0, 0), 1)
        )
