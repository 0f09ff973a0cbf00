"""mmcv's precise RoI pooling, which it has on GPUs only: on a CPU too, and differentiable in the boxes."""

import torch
from torch import Tensor

from htc_fast import ops
from htc_fast.ops import _backend


def prroi_pool_forward(
    features: Tensor, rois: Tensor, output: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    """Fill `output` [K, C, h, w] with the exact mean of `features` [N, C, H, W] over the bins of `rois` [K, 5]."""
    output.copy_(ops.pr_roi_pool([features], rois, (pooled_height, pooled_width), [spatial_scale]))


def prroi_pool_backward(
    grad_output: Tensor, rois: Tensor, grad_input: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    """Add to `grad_input` [N, C, H, W] what `grad_output` [K, C, h, w] says of the map."""
    if _backend.backend_for("pr_roi_pool", grad_output) == "reference":
        size = pooled_height, pooled_width
        grad_input += _by_definition(torch.zeros_like(grad_input), rois, grad_output, size, spatial_scale)[0]
        return
    sides = [grad_input.shape[0], *grad_input.shape[2:]]
    backward = torch.ops.htc_fast.pr_roi_pool_backward
    grad_input += backward(grad_output, rois.detach(), sides, [spatial_scale], False, 1.0)[0]


def prroi_pool_coor_backward(
    output: Tensor,
    grad_output: Tensor,
    features: Tensor,
    rois: Tensor,
    grad_rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add to `grad_rois` [K, 5] what `grad_output` [K, C, h, w] says of the boxes; image numbers have no gradient."""
    if _backend.backend_for("pr_roi_pool", features) == "reference":
        grad_rois += _by_definition(features, rois, grad_output, (pooled_height, pooled_width), spatial_scale)[1]
        return
    boxes = torch.ops.htc_fast.pr_roi_pool_boxes
    grad_rois += boxes(grad_output, [features.detach()], rois.detach(), [spatial_scale], False, 1.0)


def _by_definition(features: Tensor, rois: Tensor, grad: Tensor, size: tuple[int, int], scale: float):
    with torch.enable_grad():
        features, rois = features.detach().requires_grad_(), rois.detach().requires_grad_()
        return torch.autograd.grad(ops.pr_roi_pool([features], rois, size, [scale]), (features, rois), grad)


OPERATORS = {one.__name__: one for one in (prroi_pool_forward, prroi_pool_backward, prroi_pool_coor_backward)}
