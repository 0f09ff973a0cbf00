"""detectron2.layers' non-maximum suppression."""

import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.ops._arguments import check_tensors


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each class, in float32, exact for any number of boxes.

    boxes    [K, 4], of any float type;  scores [K];  idxs [K] numbers
    returns  [n] int64 indices, best first over all classes
    raises   ValueError, TypeError
    source   detectron2's function of this name; works in torch.jit.script
    """
    if torch.jit.is_scripting():
        if idxs.is_floating_point():
            idxs = torch.unique(idxs, return_inverse=True)[1]
        return torch.ops.htc_fast.batched_nms(boxes.detach().float(), scores.detach(), idxs, iou_threshold)
    else:
        check_tensors(boxes=boxes, scores=scores, idxs=idxs)
        if boxes.numel() == 0 and boxes.dim() == 1:
            boxes = boxes.reshape(0, 4)
        if idxs.is_floating_point():
            idxs = torch.unique(idxs, return_inverse=True)[1]
        return ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep the best boxes, and drop those that overlap a better one.

    boxes    [K, 4];  scores [K]
    returns  [n] int64 indices, best first
    raises   ValueError, TypeError
    source   torchvision's, which detectron2.layers hands out; works in torch.jit.script
    """
    if torch.jit.is_scripting():
        return torch.ops.htc_fast.batched_nms(boxes.detach(), scores.detach(), None, iou_threshold)
    else:
        return ops.nms(boxes, scores, iou_threshold)
