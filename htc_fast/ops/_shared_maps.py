"""One gradient buffer per map for all RoIAligns that read it, where each would write a whole gradient of its own.

`shared_maps` puts a node into autograd's graph that the maps pass through. The gradient of a RoIAlign that reads what
it returns finds that node, adds to its buffers in place and gives autograd nothing; the node's own runs after them all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from htc_fast.ops import _backend
from htc_fast.ops._declare import declare, watched

declare(
    "multi_level_roi_align_add_backward(Tensor(a!)[] sums, Tensor grad, Tensor rois, float[] spatial_scales, "
    "int sampling_ratio, bool aligned, float finest_size, bool has_semantic, float semantic_scale, "
    "int semantic_grid) -> ()",
    lambda *_: None,
)


def shared_maps(maps: Sequence[Tensor | None]) -> list[Any]:
    """The maps [N, C, H, W]; None stays None. Gradients of whatever reads them are summed before they go on.

    Ask autograd for the gradients of the maps given, not of those returned, which a RoIAlign's go past. Where nothing
    is gained (on CUDA, without gradients, compiled, in forward mode, under torch.func) they come back as they are.
    """
    given = [one for one in maps if one is not None]
    learns = torch.is_grad_enabled() and any(one.requires_grad for one in given)
    looked_at = watched((given,)) or _backend.in_forward_mode()
    if not learns or looked_at or any(one.device.type != "cpu" for one in given):
        return list(maps)
    taken = iter(_Shared.apply(*given))
    return [None if one is None else next(taken) for one in maps]


class _Shared(torch.autograd.Function):
    """The identity. sums: the buffers, by the engine's pass and the map's number."""

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.maps = [(one.shape, one.dtype) for one in maps]
        ctx.sums = {}
        return tuple(one.view_as(one) for one in maps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        sums = ctx.sums.pop(torch._C._current_graph_task_id(), {})
        return tuple(_total(grad, sums.get(number), ctx.maps[number][1]) for number, grad in enumerate(grads))


def _total(grad: Tensor | None, total: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if total is None:
        return grad
    return total.to(dtype) if grad is None else grad + total.to(dtype)


def added(ctx: Any, grad: Tensor, rois: Tensor) -> bool:
    """Adds a RoIAlign's gradients to its maps' buffers, if they have any: then there are none to return."""
    if grad.device.type != "cpu" or torch.is_grad_enabled() or watched((grad,)):
        return False
    has_semantic = ctx.options[4]
    # Of the tensors that it took, in their order: the RoIs come before the semantic map.
    edges = [*ctx.next_functions[: ctx.levels], *ctx.next_functions[ctx.levels + 1 :][:has_semantic]]
    node = edges[0][0]
    if not isinstance(node, _Shared._backward_cls) or any(one is not node for one, _ in edges):  # type: ignore[attr-defined]
        return False
    sums = node.sums.setdefault(torch._C._current_graph_task_id(), {})
    for _, number in edges:
        if number not in sums:
            shape, dtype = node.maps[number]
            kind = torch.float64 if dtype == torch.float64 else torch.float32
            sums[number] = torch.empty(shape, dtype=kind, memory_format=torch.channels_last).zero_()
    found = [sums[number] for _, number in edges]
    torch.ops.htc_fast.multi_level_roi_align_add_backward(found, grad, rois, *ctx.options)
    return True
