"""Maps of several sizes summed at one size, on a CPU: what stands between `semantic_merge`'s products and its result.

One pass over the result forward, one over its gradient backward. What the ReLUs cut off is kept as a bit per map in a
byte per number of the result, whatever the number of maps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from htc_fast.ops import _backend, _native
from htc_fast.ops._arguments import check_tensor, items, short
from htc_fast.ops._declare import declare, maps_like, once

TYPES = (torch.float32, torch.float16, torch.bfloat16)


def takes(maps: Tensor) -> bool:
    """Whether maps like this one are summed here: on the CPU, not in float64, the library being there.

    What torch.func transforms, and a forward-mode derivative, is torch's own.
    """
    if maps.device.type not in ("cpu", "meta") or maps.dtype not in TYPES or not _native.loaded():
        return False
    if torch.compiler.is_compiling():
        return True
    return torch._C._functorch.peek_interpreter_stack() is None and not _backend.in_forward_mode()


def resampled_sum(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum over the maps of relu(map resampled to `size`), bilinear with corners aligned.

    maps     1 to 8 of [N, C, H_l, W_l], none empty
    returns  [N, C, *size], channels-last in memory
    raises   ValueError, TypeError; RuntimeError if they do not fit each other
    """
    maps = items("maps", maps)
    _check(maps, size)
    return torch.ops.htc_fast.resampled_sum(maps, *size, True, _watched(maps))[0]


def resample(source: Tensor, size: tuple[int, int]) -> Tensor:
    """source [N, C, h, w] -> [N, C, *size], bilinear with corners aligned.

    raises  ValueError, TypeError
    """
    _check([source], size)
    return torch.ops.htc_fast.resampled_sum([source], *size, False, False)[0]


def _check(maps: list, size: tuple[int, int]) -> None:
    # Lengths and kinds alone: a side may be a symbol in a traced program.
    if not 1 <= len(maps) <= 8:
        raise ValueError(f"maps must be 1 to 8 of [N, C, H, W], got {len(maps)}.")
    if len(items("size", size)) != 2:
        raise ValueError(f"size must be height, width, got {short(size)}.")
    for one in maps:
        check_tensor("a map", one)
        if one.dim() != 4 or one.dtype not in TYPES:
            raise TypeError(
                f"maps must be [N, C, H, W] of {', '.join(map(str, TYPES))}, got {list(one.shape)} {one.dtype}."
            )


def _watched(maps: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(one.requires_grad for one in maps)


def _fake(maps, height, width, relu, keep):
    count, channels = maps[0].shape[:2]
    kept = maps_like(maps[0], count, channels, height if keep else 0, width)
    return maps_like(maps[0], count, channels, height, width), kept.to(torch.uint8)


def _fake_backward(grad, kept, heights, widths):
    return [maps_like(grad, *grad.shape[:2], *size) for size in zip(heights, widths)]


def _setup_context(ctx, inputs, output) -> None:
    maps, _, _, ctx.relu, ctx.keep = inputs
    ctx.sizes = [one.shape[2] for one in maps], [one.shape[3] for one in maps]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(library, ctx, grad, _):
    once(grad)
    if ctx.relu and not ctx.keep:
        raise RuntimeError("resampled_sum was called without keep: what its ReLUs cut off is not known.")
    (kept,) = ctx.saved_tensors
    return library.resampled_sum_backward(grad, kept, *ctx.sizes), None, None, None, None


declare(
    "resampled_sum(Tensor[] maps, SymInt height, SymInt width, bool relu, bool keep) -> (Tensor, Tensor)",
    _fake,
    backward=_backward,
    setup_context=_setup_context,
)
declare(
    "resampled_sum_backward(Tensor grad, Tensor kept, SymInt[] heights, SymInt[] widths) -> Tensor[]", _fake_backward
)
