"""htc_fast.ops as the CUDA kernels compute it, in the emulator: the same calls, on CPU tensors, with gradients.

Outputs are full of NaN or -7 before a kernel runs, so that an element which nobody wrote shows.
"""

from itertools import pairwise

import torch
from torch import Tensor

from htc_fast.ops import _rle
from htc_fast.ops.mask_iou import iou
from htc_fast.ops.propose import flat_anchors, steps_of
from tests.simt.emulator import kernels


def empty_features(count: int, channels: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """[count, channels, h, w] of NaN, channels-last."""
    return torch.full((count, *size, channels), float("nan"), dtype=dtype).permute(0, 3, 1, 2)


def empty_gradients(maps: list[Tensor], fill: float, dtype: torch.dtype) -> list[Tensor]:
    return [torch.full(map.shape, fill, dtype=dtype).contiguous(memory_format=torch.channels_last) for map in maps]


def count_of(rois: Tensor) -> int:
    return rois.shape[0] * rois.shape[1] if rois.dim() == 3 else rois.shape[0]


class RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rois, scales, options, aligned, semantic, *maps):
        ctx.maps, ctx.arguments = maps, (semantic, rois, scales, options, aligned)
        out = empty_features(count_of(rois), maps[0].shape[1], options[:2], maps[0].dtype)
        kernels().roi_align(maps, semantic, rois, scales, options, aligned, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        return *[None] * 5, *roi_align_gradients(grad, ctx.maps, *ctx.arguments)


def roi_align_gradients(
    grad: Tensor, maps, semantic, rois, scales, options, aligned, deterministic=True
) -> list[Tensor]:
    """The gradients of all maps, gathered, or scattered into zeros in float32."""
    fill, dtype = (float("nan"), grad.dtype) if deterministic else (0.0, torch.float32)
    found = empty_gradients(maps, fill, dtype)
    kernels().roi_align_backward(grad, found, semantic, rois, scales, options, aligned, deterministic)
    return found


def multi_level_roi_align(features, rois, output_size, spatial_scales, *, sampling_ratio=0, aligned=True, semantic=None,
                          semantic_scale=1 / 8, semantic_grid=14) -> Tensor:  # fmt: skip
    given = semantic is not None
    maps = [*features, *([semantic] if given else [])]
    scales = [*spatial_scales, *([semantic_scale] if given else [])]
    return RoIAlign.apply(rois, scales, [*output_size, sampling_ratio, semantic_grid], aligned, given, *maps)


class PrRoIPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rois, scales, size, aligned, *maps):
        ctx.rois, ctx.maps, ctx.arguments = rois, maps, (scales, size, aligned)
        out = empty_features(count_of(rois), maps[0].shape[1], size, maps[0].dtype)
        kernels().pr_roi_pool(maps, rois, scales, size, aligned, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        maps, boxes = empty_gradients(ctx.maps, float("nan"), grad.dtype), torch.full_like(ctx.rois, float("nan"))
        kernels().pr_roi_pool_backward(grad, maps, ctx.rois, *ctx.arguments)
        kernels().pr_roi_pool_boxes(grad, ctx.maps, ctx.rois, *ctx.arguments, boxes)
        return boxes, None, None, None, *maps


def pr_roi_pool(features, rois, output_size, spatial_scales, *, aligned=True) -> Tensor:
    return PrRoIPool.apply(rois, list(spatial_scales), list(output_size), aligned, *features)


def batched_nms_padded(boxes, scores, idxs, iou_threshold, max_output, score_threshold=-torch.inf):
    """idxs may be None: all of one class."""
    indices = torch.full((len(boxes), max_output), -7)
    counts = torch.full((len(boxes),), -7, dtype=torch.int32)
    kernels().batched_nms(boxes, scores, idxs, iou_threshold, score_threshold, indices, counts)
    return indices, counts


def soft_nms_padded(boxes, scores, idxs, *, method="linear", iou_threshold=0.3, sigma=0.5, min_score=1e-3, max_output):
    indices, decayed = torch.full((len(boxes), max_output), -7), torch.full((len(boxes), max_output), float("nan"))
    counts = torch.full((len(boxes),), -7, dtype=torch.int32)
    gaussian, least = method == "gaussian", max(min_score, 0.0)
    kernels().soft_nms(boxes, scores, idxs, gaussian, iou_threshold, sigma, least, indices, decayed, counts)
    return indices, decayed, counts


def propose(objectness, deltas, strides, image_sizes, anchors, *, per_level=1000, limit=1000, iou_threshold=0.7,
            min_size=0.0, delta_std=(1.0, 1.0, 1.0, 1.0)):  # fmt: skip
    flat, steps = flat_anchors(anchors, objectness), steps_of(strides, len(objectness))
    options = per_level, limit, iou_threshold, min_size, list(delta_std)
    return kernels().propose(objectness, deltas, image_sizes, flat, steps, *options)


def soft_nms(boxes, scores, idxs, *, max_output=None, **options):
    most = len(boxes) if max_output is None else min(max_output, len(boxes))
    found = soft_nms_padded(boxes[None], scores[None], idxs[None], max_output=most, **options)
    indices, decayed, count = (one[0] for one in found)
    assert (indices[count:] == -1).all() and (decayed[count:] == 0).all()
    return indices[:count], decayed[:count]


def refine(boxes, logits, deltas, std, image_sizes, labels=None) -> Tensor:
    out = torch.full(boxes.shape, float("nan"))
    kernels().refine(boxes, logits, deltas, list(std), image_sizes, labels, out)
    return out


def detections(logits, deltas, boxes, valid, image_sizes, *, std, score_average, score_threshold, iou_threshold, limit):
    images, nan = len(boxes), float("nan")
    found = (
        torch.full((images, limit, 4), nan),
        torch.full((images, limit), nan),
        torch.full((images, limit), -7),
        torch.full((images,), -7, dtype=torch.int32),
    )
    average = score_average == "logits"
    thresholds = score_threshold, iou_threshold
    kernels().detections(logits, deltas, boxes, valid, image_sizes, list(std), average, *thresholds, *found)
    return found


def paste_masks(masks, boxes, image_size, threshold=0.5) -> Tensor:
    pasted = torch.full((len(masks), *image_size), 7, dtype=torch.uint8)
    kernels().paste_masks(masks, boxes, threshold, pasted)
    assert (pasted <= 1).all()
    return pasted.bool()


def mask_targets(layers, rois, layer, number, size=28) -> Tensor:
    goals = torch.full((len(rois), size, size), float("nan"))
    kernels().mask_targets(layers.contiguous(), rois.contiguous(), layer.contiguous(), number.contiguous(), goals)
    return goals


def runs_of_masks(masks, boxes, image_size, threshold=0.5, room=-1) -> list[Tensor]:
    """Every mask's runs [n, 2], as the kernel hands them to the CPU; room: for how many at first, -1: the usual."""
    runs, offsets = kernels().find_runs(masks, boxes, *image_size, threshold, room)
    return [runs[a:b] for a, b in pairwise(offsets.tolist())]


def encode_masks(masks, boxes, image_size, threshold=0.5, room=-1) -> list[dict]:
    packed, offsets = kernels().encode_masks(masks, boxes, *image_size, threshold, room)
    return strings_of(packed, offsets, image_size)


def strings_of(packed: Tensor, offsets: Tensor, image_size) -> list[dict]:
    return [{"size": list(image_size), "counts": one} for one in _rle.split(packed, offsets)]


def region(maps: Tensor, crop) -> list[float]:
    """All of the maps where nothing is said."""
    return [0.0, 0.0, float(maps.shape[-1]), float(maps.shape[-2])] if crop is None else list(crop)


def encode_logits(logits, image_size, threshold=0.0, crop=None, room=-1) -> list[dict]:
    found = kernels().encode_logits(logits.contiguous(), *image_size, threshold, region(logits, crop), room)
    return strings_of(*found, image_size)


def encode_prototypes(
    coefficients, prototypes, boxes, image_size, threshold=0.0, crop=None, cut="after", room=-1
) -> list[dict]:
    given = [one.contiguous() for one in (coefficients, prototypes, boxes)]
    options = *image_size, threshold, region(prototypes, crop), cut == "after", room
    return strings_of(*kernels().encode_prototypes(*given, *options), image_size)


def encode(masks, room=-1) -> list[dict]:
    return strings_of(*kernels().encode(masks.contiguous(), room), masks.shape[1:])


def decode(rles) -> Tensor:
    runs, offsets, sizes = _rle.read("rles", rles)
    masks = torch.full((len(sizes), *sizes[0].tolist()), 7, dtype=torch.uint8)
    kernels().decode(runs, offsets, masks)
    assert (masks <= 1).all()
    return masks.bool()


def mask_counts(a, b) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels that pairs of masks share, and that each covers."""
    found = torch.full((len(a), len(b)), -7), torch.full((len(a),), -7), torch.full((len(b),), -7)
    kernels().mask_iou(a.contiguous(), b.contiguous(), *found)
    return found


def mask_iou(a, b, crowd=None) -> Tensor:
    return iou(*mask_counts(a, b), crowd)
