"""mmdetection's RPN and RetinaNet heads: proposals in one call, 3x3 convolutions with their ReLU."""

from typing import Any

import torch
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmengine.structures import InstanceData
from torch import Tensor

from htc_fast import ops
from htc_fast.integrations import _layers


def plain_nms(config: Any) -> bool:
    """Whether an mmcv nms_cfg asks for plain NMS within each class, and nothing else."""
    # split_thr says from how many boxes on mmcv goes class by class: the same boxes.
    known = {"type", "iou_threshold", "split_thr"}
    return bool(config) and config.get("type", "nms") == "nms" and set(config) <= known and "iou_threshold" in config


def plain_coder(coder: Any) -> bool:
    """Whether deltas are decoded as our operators do: no means, boxes clipped."""
    plain = type(coder) is DeltaXYWHBBoxCoder and not any(coder.means) and not coder.add_ctr_clamp
    return plain and coder.clip_border and not coder.use_box_type


def sizes_of(metas: list[dict], device: torch.device) -> Tensor:
    """[N, 2] height, width of the images before they were padded."""
    return torch.tensor([list(one["img_shape"][:2]) for one in metas], device=device)


class FastRPNHead(RPNHead):
    """mmdetection's."""

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not _layers.takes(x, self.rpn_conv):
            return super().forward_single(x)
        x = _layers.run(x, self.rpn_conv, relu=True)
        return self.rpn_cls(x), self.rpn_reg(x)

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: Any = None,
        batch_img_metas: Any = None,
        cfg: Any = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        asked = self.test_cfg if cfg is None else cfg
        if score_factors is not None or rescale or not with_nms or not self._one_call(asked, cls_scores):
            return super().predict_by_feat(
                cls_scores, bbox_preds, score_factors, batch_img_metas, cfg, rescale, with_nms
            )
        boxes, scores, valid = ops.propose(
            cls_scores,
            bbox_preds,
            [(down, across) for across, down in self.prior_generator.strides],
            sizes_of(batch_img_metas, cls_scores[0].device),
            [one.cpu() for one in self.prior_generator.base_anchors],
            per_level=asked.nms_pre,
            limit=asked.max_per_img,
            iou_threshold=asked.nms["iou_threshold"],
            min_size=asked.min_bbox_size,
            delta_std=self.bbox_coder.stds,
        )
        found = []
        for box, score, keep in zip(boxes, scores, valid):
            box, score = box[keep].to(cls_scores[0].dtype), score[keep].to(cls_scores[0].dtype)
            labels = torch.zeros(len(box), dtype=torch.long, device=box.device)
            found.append(InstanceData(bboxes=box, scores=score, labels=labels))
        return found

    def _one_call(self, asked: Any, scores: list[Tensor]) -> bool:
        """Whether `ops.propose` says what these settings ask for."""
        made = self.prior_generator
        anchors = type(made) is AnchorGenerator and not made.use_box_type and self.cls_out_channels == 1
        limits = (
            asked.get("nms_pre", -1) > 0 and asked.get("max_per_img", -1) > 0 and asked.get("min_bbox_size", -1) >= 0
        )
        few = len(scores) <= 8 and sum(map(len, made.base_anchors)) <= 128
        return bool(
            anchors
            and limits
            and few
            and self.use_sigmoid_cls
            and plain_coder(self.bbox_coder)
            and plain_nms(asked.get("nms"))
            and scores[0].dtype == torch.float32
        )


class FastRetinaHead(RetinaHead):
    """mmdetection's."""

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not (_layers.takes(x, self.retina_cls) and _layers.takes(x, self.retina_reg)):
            return super().forward_single(x)
        scores = moves = x
        for layer in self.cls_convs:
            scores = layer(scores)
        for layer in self.reg_convs:
            moves = layer(moves)
        return _layers.run(scores, self.retina_cls, relu=False), _layers.run(moves, self.retina_reg, relu=False)


OURS: dict[type, type] = {RPNHead: FastRPNHead, RetinaHead: FastRetinaHead}
