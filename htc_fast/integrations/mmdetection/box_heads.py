"""mmdetection's box heads: from logits and deltas to detections in one call."""

from typing import Any

import torch
from mmdet.models.roi_heads import bbox_heads
from mmengine.structures import InstanceData
from torch import Tensor

from htc_fast import ops
from htc_fast.integrations.mmdetection.dense_heads import plain_coder, plain_nms, sizes_of


class _Detections:
    """What every box head's end becomes."""

    def _predict_by_feat_single(
        self: Any,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        img_meta: dict,
        rescale: bool = False,
        rcnn_test_cfg: Any = None,
    ) -> InstanceData:
        if not _one_call(self, roi, cls_score, bbox_pred, rcnn_test_cfg):
            return super()._predict_by_feat_single(  # type: ignore[misc]
                roi, cls_score, bbox_pred, img_meta, rescale, rcnn_test_cfg
            )
        boxes, scores, labels, count = ops.detections(
            [cls_score[None]],
            bbox_pred[None],
            roi[None, :, 1:],
            None,
            sizes_of([img_meta], roi.device),
            std=self.bbox_coder.stds,
            score_average="logits",
            score_threshold=rcnn_test_cfg.score_thr,
            iou_threshold=rcnn_test_cfg.nms["iou_threshold"],
            limit=rcnn_test_cfg.max_per_img,
        )
        found = int(count[0])
        box = boxes[0, :found]
        if rescale:
            # The IoU of two boxes is the same in another unit, so this may as well come last.
            across, down = img_meta["scale_factor"][:2]
            box = box / box.new_tensor([across, down, across, down])
        return InstanceData(bboxes=box, scores=scores[0, :found], labels=labels[0, :found])


def _one_call(head: Any, roi: Tensor, logits: Tensor | None, deltas: Tensor | None, asked: Any) -> bool:
    """Whether `ops.detections` says what these settings ask for."""
    if logits is None or deltas is None or asked is None or not len(roi):
        return False
    classes = 1 if head.reg_class_agnostic else head.num_classes
    plain = logits.dtype == deltas.dtype == roi.dtype == torch.float32 and not head.custom_cls_channels
    sizes = logits.shape[1] == head.num_classes + 1 and deltas.shape[1] == 4 * classes
    limits = asked.get("score_thr", -1) >= 0 and asked.get("max_per_img", -1) > 0
    return bool(plain and sizes and limits and plain_coder(head.bbox_coder) and plain_nms(asked.get("nms")))


class FastBBoxHead(_Detections, bbox_heads.BBoxHead):
    """mmdetection's."""


class FastConvFCBBoxHead(_Detections, bbox_heads.ConvFCBBoxHead):
    """mmdetection's."""


class FastShared2FCBBoxHead(_Detections, bbox_heads.Shared2FCBBoxHead):
    """mmdetection's."""


class FastShared4Conv1FCBBoxHead(_Detections, bbox_heads.Shared4Conv1FCBBoxHead):
    """mmdetection's."""


class FastSCNetBBoxHead(_Detections, bbox_heads.SCNetBBoxHead):
    """mmdetection's."""


OURS: dict[type, type] = {
    bbox_heads.BBoxHead: FastBBoxHead,
    bbox_heads.ConvFCBBoxHead: FastConvFCBBoxHead,
    bbox_heads.Shared2FCBBoxHead: FastShared2FCBBoxHead,
    bbox_heads.Shared4Conv1FCBBoxHead: FastShared4Conv1FCBBoxHead,
    bbox_heads.SCNetBBoxHead: FastSCNetBBoxHead,
}
