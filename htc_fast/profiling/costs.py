"""Operations and bytes of one operator call, from the shapes it was given: torch's operators, ours and torchvision's.

Operations are multiplications and additions, two per multiply-add. Bytes are what a fused kernel cannot avoid: every
layer reads its input and weights once and writes its output once. Normalisation, activation, bias and resampling by
nearest neighbours belong to the layer they follow and move nothing; of a residual sum the second operand is read.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


class Cost(NamedTuple):
    """What one call needs at least; stage: which mask head it belongs to (from 1), where one call runs several."""

    flop: float
    moved: float
    stage: int | None = None


# Neither arithmetic nor traffic that a fused program would have: new tensors, copies into another layout or type.
FREE = {
    getattr(aten, name)
    for name in (
        "empty empty_like empty_strided new_empty full full_like zeros zeros_like new_zeros ones ones_like arange "
        "scalar_tensor _to_copy clone contiguous lift_fresh detach zero_ fill_ upsample_nearest2d "
        "native_batch_norm _native_batch_norm_legit_no_training _local_scalar_dense rand randn cudnn_batch_norm "
        "_unsafe_view reflection_pad2d"
    ).split()
}
SUMS = {aten.add, aten.add_}
SAMPLE = 8  # operations of one bilinear sample per channel: four weights, four products summed
# Samples per bin and axis where the RoIs' sizes are not known (on meta): pyramid, semantic map.
USUAL = 3, 2


def cost(operator: Any, arguments: tuple, options: dict, result: Any) -> list[Cost]:
    """What a call needs.

    operator   a torch operator overload, as a dispatch mode gets it
    returns    one Cost, or one per mask head
    """
    packet, name = operator._overloadpacket, str(operator).split(".")
    if name[0] in ("htc_fast", "htc_fast_triton", "torchvision"):
        own = OWN.get(name[1].removesuffix("_backward"))
        # A gradient is two products of the forward's size: of the input and of the weights.
        backward = name[1].endswith("_backward") and own not in (_roi_align, _pr_roi_pool, _resampled_sum)
        flop = own(*arguments[backward * (1 + ("conv3x3" in name[1])) :]) if own else 0.0
        if isinstance(flop, list):
            return flop
        return [Cost(flop * (1 + backward), _touched(own, arguments, options, result))]
    if packet is aten._addmm_activation:  # counted as what it is without its ReLU
        packet = aten.addmm
    if packet in flop_registry:
        flop = flop_registry[packet](*arguments, **options, out_val=result)
        return [Cost(float(flop), _bytes(arguments, options, result))]
    if packet in FREE or _only_looks(operator):
        return [Cost(0.0, 0.0)]
    if packet in SUMS or torch.Tag.pointwise in operator.tags:
        return [Cost(float(_numel(result)), _second(packet, arguments))]
    if packet in (aten.upsample_bilinear2d, aten.grid_sampler_2d):
        return [Cost(SAMPLE * _numel(result), _bytes(arguments, options, None))]
    if packet is aten.avg_pool2d:
        return [Cost(float(_numel(result) * math.prod(arguments[1])), _bytes(arguments, options, result))]
    return [Cost(float(_numel(result)), _bytes(arguments, options, result))]


def _only_looks(operator) -> bool:
    """Whether the result is a view of an argument."""
    returned = operator._schema.returns
    return bool(returned) and all(one.alias_info is not None and not one.alias_info.is_write for one in returned)


def _second(packet, arguments: tuple) -> float:
    """Bytes of a sum's second operand, if it is one."""
    maps = [one for one in arguments[:2] if isinstance(one, Tensor)]
    return float(min(one.nbytes for one in maps)) if packet in SUMS and len(maps) == 2 else 0.0


def _tensors(*values) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            yield from _tensors(*value.values())
        elif isinstance(value, (list, tuple)):
            yield from _tensors(*value)


def _numel(value) -> int:
    return sum(one.numel() for one in _tensors(value))


def _bytes(*values) -> float:
    return float(sum(one.nbytes for one in _tensors(*values)))


def _touched(own: Callable[..., Any] | None, arguments: tuple, options: dict, result) -> float:
    """Bytes of a call of ours; few RoIs do not read whole maps."""
    moved = _bytes(arguments, options, result)
    if own is not _roi_align or not isinstance(arguments[0], (list, tuple)):
        return moved
    features, rois, _, _, scales, *_ = arguments
    semantic, scale = arguments[8], arguments[9]
    whole = _bytes(features, semantic)
    pixel = features[0].shape[1] * features[0].element_size()
    sides = _sides(rois)
    if sides is None:
        return moved
    level = _levels(sides, arguments[7], len(scales))
    own_scale = torch.tensor(scales)[level]
    read = ((sides[0] * own_scale + 1) * (sides[1] * own_scale + 1)).sum()
    if semantic is not None:
        read = read + ((sides[0] * scale + 1) * (sides[1] * scale + 1)).sum()
    return moved - whole + min(whole, float(read) * pixel)


def _sides(rois: Tensor) -> tuple[Tensor, Tensor] | None:
    """Width and height of each RoI; None on meta."""
    if rois.is_meta:
        return None
    boxes = rois.detach().float().cpu().reshape(-1, rois.shape[-1])[:, -4:]
    return (boxes[:, 2] - boxes[:, 0]).clamp(min=0), (boxes[:, 3] - boxes[:, 1]).clamp(min=0)


def _levels(sides: tuple[Tensor, Tensor], finest_size: float, count: int) -> Tensor:
    size = (sides[0] * sides[1]).sqrt() / finest_size + 1e-6
    return (size[:, None] >= 2.0 ** torch.arange(1, count)).sum(dim=1)


def _samples(sides, scale, bins: tuple[int, int], ratio: int, usual: int, count: int) -> float:
    """Bilinear samples of all RoIs in a grid of bins."""
    if ratio > 0 or sides is None:
        return count * math.prod(bins) * (ratio if ratio > 0 else usual) ** 2
    across, down = ((side * scale / bin).ceil().clamp(min=1) for side, bin in zip(sides, bins[::-1]))
    return float((across * down).sum()) * math.prod(bins)


def _roi_align(features, rois, *rest) -> float:
    """Ours, forward and backward: (features | gradient, rois, …)."""
    if isinstance(features, Tensor):
        out_h, out_w, channels = features.shape[2], features.shape[3], features.shape[1]
        _, scales, ratio, _, finest_size, semantic, semantic_scale, grid = rest[:8]
    else:
        channels = features[0].shape[1]
        out_h, out_w, scales, ratio, _, finest_size, semantic, semantic_scale, grid = rest[:9]
    sides, count = _sides(rois), rois.numel() // rois.shape[-1]
    scale = 1.0 if sides is None else torch.tensor(scales)[_levels(sides, finest_size, len(scales))]
    samples = _samples(sides, scale, (out_h, out_w), ratio, USUAL[0], count)
    if semantic is not None and semantic is not False:
        samples += _samples(sides, semantic_scale, (grid, grid), ratio, USUAL[1], count)
    return SAMPLE * samples * channels


def _pr_roi_pool(features, rois, *rest) -> float:
    """Forward and backward: a multiply-add for each pixel whose hat reaches into a bin, one more at either end."""
    if isinstance(features, Tensor):
        channels, *bins = features.shape[1:]
        _, scales, _, finest_size = rest
    else:
        *bins, scales, _, finest_size = rest
        channels = features[0].shape[1]
    sides = _sides(rois)
    if sides is None:
        return 2.0 * channels * (rois.numel() // rois.shape[-1]) * math.prod(bins) * (USUAL[0] + 2) ** 2
    scale = torch.tensor(scales)[_levels(sides, finest_size, len(scales))]
    across, down = (side * scale + 2 * bin for side, bin in zip(sides, bins[::-1]))
    return 2.0 * channels * float((across * down).sum())


def _torchvision_roi_align(input, rois, scale, out_h, out_w, ratio, aligned) -> float:
    return SAMPLE * _samples(_sides(rois), scale, (out_h, out_w), ratio, USUAL[0], len(rois)) * input.shape[1]


def _conv3x3_relu(x: Tensor, weight: Tensor, *rest) -> float:
    return 2.0 * len(x) * math.prod(x.shape[2:]) * weight.numel()


def _convolution(x: Tensor, weight: Tensor, bias: Any, other: Any, stride, padding, dilation, groups, relu) -> float:
    out = aten.convolution(x.to("meta"), weight.to("meta"), None, stride, padding, dilation, False, [0, 0], groups)
    return 2.0 * len(x) * math.prod(out.shape[2:]) * weight.numel()


def _deform(x: Tensor, weight: Tensor, offset: Tensor, *rest) -> float:
    """torchvision's deformable convolution: a sample for every tap and channel, then the products."""
    pixels = len(x) * math.prod(offset.shape[2:])
    return pixels * (2.0 * weight.numel() + SAMPLE * x.shape[1] * math.prod(weight.shape[2:]))


def _stem(x: Tensor, weight: Tensor, *rest) -> float:
    return 2.0 * len(x) * (x.shape[2] - 3) * (x.shape[3] - 3) * weight.numel()


def _max_pool(x: Tensor) -> float:
    return float(x.numel() // 4)


def _mask_flow(x: Tensor, m: Tensor, weight: Tensor, *rest) -> float:
    return 2.0 * len(m) * math.prod(m.shape[2:]) * weight.numel()


def _mask_predict(x: Tensor, up_weight: Tensor, up_bias: Tensor, weight: Tensor, *rest) -> float:
    one = isinstance(rest[-1], Tensor) and rest[-1].dim() == 1 and not rest[-1].is_floating_point()
    return _predict(x, up_weight, weight, one)


def _predict(x: Tensor, up_weight: Tensor, weight: Tensor, one_class: bool) -> float:
    pixels = len(x) * math.prod(x.shape[2:])
    last = weight.shape[1] if one_class else weight[:, :, 0, 0].numel()
    return 2.0 * pixels * (up_weight.numel() + 4 * last)


def _semantic_merge(features, weights, biases, level) -> float:
    """Every 1x1 where there are fewer pixels, before or after its level is resampled."""
    pixels = math.prod(features[level].shape[2:])
    at = [min(math.prod(one.shape[2:]), pixels) * 2 * weight.numel() for one, weight in zip(features, weights)]
    sampled = sum(pixels * SAMPLE * weight.shape[1] for weight in weights)
    return float(len(features[0]) * (sum(at) + sampled))


def _resampled_sum(maps, *rest) -> float:
    """Of maps, height and width; backward of the gradient, what is kept, heights and widths."""
    if isinstance(maps, Tensor):
        return float(SAMPLE * maps.numel() * len(rest[1]))
    size, first = tuple(rest[:2]), maps[0]
    resampled = sum(tuple(one.shape[2:]) != size for one in maps)
    return float(SAMPLE * len(first) * first.shape[1] * math.prod(size) * resampled)


def _mask_branch(x, labels, tensors, convolutions, flows, averaged) -> list[Cost]:
    """One Cost per head: its layers read and write maps of x's size."""
    rest, found, pixels = iter(tensors), [], len(x) * math.prod(x.shape[2:])
    for number, (count, flow) in enumerate(zip(convolutions, flows)):
        layers = [(next(rest), next(rest)) for _ in range(flow + count)]
        up_weight, _, weight, _ = (next(rest) for _ in range(4))
        flop = sum(2.0 * pixels * one.numel() for one, _ in layers)
        moved = len(layers) * 2 * x.nbytes + flow * x.nbytes + _bytes(layers)
        if number in averaged:
            flop += _predict(x, up_weight, weight, one_class=True)
            moved += x.nbytes + _bytes(up_weight, weight) + 4 * pixels * 4
        found.append(Cost(flop, float(moved), number + 1))
    return found


OWN: dict[str, Callable[..., Any]] = {
    "multi_level_roi_align": _roi_align,
    "pr_roi_pool": _pr_roi_pool,
    "conv3x3_relu": _conv3x3_relu,
    "convolution": _convolution,
    "convolution_sum": _conv3x3_relu,
    "stem": _stem,
    "max_pool": _max_pool,
    "lateral": _conv3x3_relu,
    "mask_flow": _mask_flow,
    "mask_predict": _mask_predict,
    "semantic_merge": _semantic_merge,
    "mask_branch": _mask_branch,
    "resampled_sum": _resampled_sum,
    "roi_align": _torchvision_roi_align,
    "deform_conv2d": _deform,
    "_deform_conv2d": _deform,  # backward
}
