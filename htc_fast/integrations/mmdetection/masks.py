"""mmdetection's mask and semantic heads: masks pasted in one pass, levels merged in one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models.roi_heads import mask_heads
from torch import Tensor, nn

from htc_fast import ops
from htc_fast.integrations import _layers


def pastes(boxes: Tensor, threshold: float) -> bool:
    """Whether `ops.paste_masks` gives mmdetection's masks: below one half those reach beyond their boxes."""
    return threshold >= 0.5 and boxes.dtype == torch.float32 and bool((boxes[:, 2:] > boxes[:, :2]).all())


def paste(found: Tensor, boxes: Tensor, meta: dict, threshold: float, rescale: bool) -> Tensor:
    """found [K, h, w] probabilities -> bool [K, H, W]; boxes are rescaled in place, as mmdetection does."""
    height, width = meta["ori_shape"][:2]
    across, down = meta["scale_factor"][:2]
    if rescale:
        boxes /= boxes.new_tensor([across, down, across, down])
    else:
        single = np.float32  # mmdetection's factors have gone through a tensor
        height, width = (int(np.round(side * float(single(one)))) for side, one in ((height, down), (width, across)))
    return ops.paste_masks(found, boxes, (int(height), int(width)), threshold)


def heads_of(heads: Sequence[Any]) -> list[ops.MaskHeadWeights] | None:
    """The weights of a cascade's mask heads; None where one is not made of plain layers."""
    found = []
    for head in heads:
        if type(head) not in (FastFCNMaskHead, FastHTCMaskHead) or head.training or _layers.hooked(head):
            return None
        try:
            weights = ops.mask_head_weights(head)
        except ValueError:
            return None
        convs: list[Any] = [one.conv for one in head.convs if type(getattr(one, "activate", None)) is nn.ReLU]
        if len(convs) != len(weights.convolutions) or head.upsample_method != "deconv":
            return None
        packed = [_layers.folded(one).packed for one in convs]
        found.append(weights._replace(packed=tuple(one for one in packed if one is not None)))
    return found


def labels_of(head: Any, results: list) -> Tensor:
    """[K] the class whose map is wanted of every box."""
    labels = torch.cat([one.labels for one in results])
    return torch.zeros_like(labels) if head.class_agnostic else labels


class _Pasted:
    """What every mask head's end becomes."""

    def _predict_by_feat_single(
        self: Any,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: Any,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        threshold = rcnn_test_cfg.mask_thr_binary
        if activate_map or not pastes(bboxes, threshold):
            return super()._predict_by_feat_single(  # type: ignore[misc]
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map
            )
        wanted = torch.zeros_like(labels) if self.class_agnostic else labels
        found = mask_preds[torch.arange(len(wanted), device=wanted.device), wanted].sigmoid()
        return paste(found, bboxes, img_meta, threshold, rescale)


class FastFCNMaskHead(_Pasted, mask_heads.FCNMaskHead):
    """mmdetection's."""


class FastHTCMaskHead(_Pasted, mask_heads.HTCMaskHead):
    """mmdetection's."""


class FastSCNetMaskHead(_Pasted, mask_heads.SCNetMaskHead):
    """mmdetection's."""


class _Merged:
    """What every fused semantic head's forward becomes."""

    def forward(self: Any, feats: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        laterals = [one for one in self.lateral_convs if _lateral(one)]
        if len(laterals) != len(feats) or len(feats) > 8 or feats[0].dtype != laterals[0].conv.weight.dtype:
            return super().forward(feats)  # type: ignore[misc]
        weights = [one.conv.weight for one in laterals]
        biases = [one.conv.bias for one in laterals]
        x = ops.semantic_merge(feats, weights, biases, level=self.fusion_level)
        for i in range(self.num_convs):
            x = self.convs[i](x)
        return self.conv_logits(x), self.conv_embedding(x)


def _lateral(module: Any) -> bool:
    """Whether a level is multiplied, given a bias and a ReLU, and nothing else."""
    plain = module.norm is None and type(getattr(module, "activate", None)) is nn.ReLU and not _layers.hooked(module)
    conv = module.conv
    return plain and _layers.is_plain(conv) and conv.kernel_size == (1, 1) and conv.bias is not None


class FastFusedSemanticHead(_Merged, mask_heads.FusedSemanticHead):
    """mmdetection's."""


class FastSCNetSemanticHead(_Merged, mask_heads.SCNetSemanticHead):
    """mmdetection's."""
