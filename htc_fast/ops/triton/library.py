"""The Triton operators as PyTorch sees them: schemas, fake kernels, gradients; the same as the native library's.

They live in `htc_fast_triton::`. Where the native library has no CUDA kernels they also become its CUDA implementation,
so that a program exported or compiled with `htc_fast::` runs on a GPU machine without nvcc.
"""

import importlib
from collections.abc import Callable

import torch

from htc_fast.ops import _backend, _native
from htc_fast.ops.roi_align import second_backward, setup_second

NAMESPACE = "htc_fast_triton"
# Operator, the file of its kernels, its schema.
OPERATORS = (
    ("multi_level_roi_align", "roi_align",
     "(Tensor[] features, Tensor rois, int out_h, int out_w, float[] spatial_scales, int sampling_ratio, bool aligned, "
     "float finest_size, Tensor? semantic, float semantic_scale, int semantic_grid) -> Tensor"),
    ("multi_level_roi_align_backward", "roi_align_backward",
     "(Tensor grad, Tensor rois, int[] sizes, float[] spatial_scales, int sampling_ratio, bool aligned, "
     "float finest_size, bool has_semantic, float semantic_scale, int semantic_grid, bool deterministic=True) "
     "-> Tensor[]"),
    ("batched_nms", "nms", "(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold) -> Tensor"),
    ("batched_nms_padded", "nms",
     "(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold, int max_output, float score_threshold) "
     "-> (Tensor, Tensor)"),
)  # fmt: skip


def _runner(name: str, file: str) -> Callable:
    def run(*arguments):
        return getattr(importlib.import_module(f"htc_fast.ops.triton.{file}"), name)(*arguments)

    return run


_library = torch.library.Library(NAMESPACE, "DEF")
_native_library = torch.library.Library("htc_fast", "IMPL")
for _name, _file, _schema in OPERATORS:
    _library.define(_name + _schema)
    for _device in ("CUDA", "CPU"):
        _library.impl(_name, _runner(_name, _file), _device)
    if f"htc_fast::{_name}" in _native.cuda_operators:
        continue
    if _backend.triton_installed() and _native.loaded() and hasattr(torch.ops.htc_fast, _name):
        _native_library.impl(_name, _runner(_name, _file), "CUDA")
if _backend.triton_installed():
    for _name in ("roi_align", "multi_level_roi_align", "nms", "batched_nms", "batched_nms_padded"):
        _backend.register(_name, "triton")


@torch.library.register_fake(f"{NAMESPACE}::multi_level_roi_align", lib=_library)
def _(features, rois, out_h, out_w, scales, ratio, aligned, finest_size, semantic, semantic_scale, semantic_grid):
    count = rois.shape[0] * rois.shape[1] if rois.dim() == 3 else rois.shape[0]
    return features[0].new_empty(count, out_h, out_w, features[0].shape[1]).permute(0, 3, 1, 2)


@torch.library.register_fake(f"{NAMESPACE}::multi_level_roi_align_backward", lib=_library)
def _(grad, rois, sizes, *options):
    images, channels = sizes[0], grad.shape[1]
    return [grad.new_empty(images, h, w, channels).permute(0, 3, 1, 2) for h, w in zip(sizes[1::2], sizes[2::2])]


@torch.library.register_fake(f"{NAMESPACE}::batched_nms", lib=_library)
def _(boxes, scores, idxs, iou_threshold):
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@torch.library.register_fake(f"{NAMESPACE}::batched_nms_padded", lib=_library)
def _(boxes, scores, idxs, iou_threshold, max_output, score_threshold):
    images = boxes.shape[0]
    return boxes.new_empty(images, max_output, dtype=torch.int64), boxes.new_empty(images, dtype=torch.int32)


def _setup_context(ctx, inputs, output) -> None:
    features, rois, _, _, *options = inputs
    semantic = options[4]
    maps = [*features, *([] if semantic is None else [semantic])]
    options[4] = semantic is not None
    ctx.options, ctx.levels = options, len(features)
    ctx.sizes = [maps[0].shape[0], *(side for one in maps for side in one.shape[2:])]
    ctx.save_for_backward(rois)


def _backward(ctx, grad):
    (rois,) = ctx.saved_tensors
    operator = torch.ops.htc_fast_triton.multi_level_roi_align_backward
    grads = operator(grad, rois, ctx.sizes, *ctx.options)
    semantic = grads[ctx.levels] if ctx.options[4] else None
    return grads[: ctx.levels], None, None, None, None, None, None, None, semantic, None, None


def _second(ctx, grads):
    return second_backward(torch.ops.htc_fast_triton.multi_level_roi_align, ctx, grads), *[None] * 10


for _name, _function, _setup in (("multi_level_roi_align", _backward, _setup_context),
                                 ("multi_level_roi_align_backward", _second, setup_second)):  # fmt: skip
    torch.library.register_autograd(f"{NAMESPACE}::{_name}", _function, setup_context=_setup, lib=_library)
