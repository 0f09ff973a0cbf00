"""What the Triton kernels are launched with, recorded from their launchers: what scripts/aot_triton.py compiles."""

import importlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SHARED = {"80": 163 * 1024, "120": 99 * 1024}  # bytes that a block may have; others are held to sm_80's
# Keep weights in a block's shared memory, or need many registers beside what is multiplied from there;
RESIDENT = "predict_class_resident_kernel", "product_resident_kernel", "merge_boxes_kernel"
RESIDENT_SHARED = {"90": 227 * 1024}  # which has room for them, and registers for the rest, here alone
launched: list[tuple] = []


def record(architecture: str) -> None:
    """Make the launchers note what they would launch there."""
    from htc_fast.ops.triton import tiles

    shared, warpgroups = SHARED.get(architecture, SHARED["80"]), architecture in ("90", "100")
    tiles.AHEAD = replace(tiles.AHEAD, shared=shared, warpgroups=warpgroups)
    for file in (ROOT / "htc_fast" / "ops" / "triton").glob("[a-z]*.py"):
        module = importlib.import_module(f"htc_fast.ops.triton.{file.stem}")
        module.launch = lambda kernel, programs, device, *arguments, **options: launched.append(
            (kernel, arguments, options)
        )


def runs_on(name: str, architecture: str) -> bool:
    """Whether the kernel of this case is launched there."""
    if name.startswith(RESIDENT):
        return architecture in RESIDENT_SHARED
    return int(architecture) >= 90 or not name.startswith("tma_kernel")


def shared_of(name: str, architecture: str) -> int:
    """Bytes of shared memory that a block of this case may have there."""
    usual = SHARED.get(architecture, SHARED["80"])
    return RESIDENT_SHARED.get(architecture, usual) if name.startswith(RESIDENT) else usual


def cases() -> dict[str, tuple]:
    """name -> (kernel, arguments, options): an 800 x 1344 image, 256 channels, and what the network asks for."""
    from htc_fast.ops.triton import nms, roi_align, roi_align_backward

    found: dict[str, tuple] = {}

    def take(suffix: str, call, *arguments) -> None:
        launched.clear()
        call(*arguments)
        for kernel, given, options in launched:
            name = kernel.fn.__name__
            found.setdefault(f"{name}<{suffix}>" if suffix else name, (kernel, given, options))

    def empty(*shape: int, dtype=torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    scales, sides = [1 / 4, 1 / 8, 1 / 16, 1 / 32], [(200, 336), (100, 168), (50, 84), (25, 42)]
    for name, dtype in TYPES.items():
        maps = [empty(2, h, w, 256, dtype=dtype).permute(0, 3, 1, 2) for h, w in sides]
        sizes = [2, *(side for pair in [*sides, sides[1]] for side in pair)]
        for bins in (7, 14):
            grad = empty(512, bins, bins, 256, dtype=dtype).permute(0, 3, 1, 2)
            for semantic in (maps[1], None):
                options = (scales, 0, True, 56.0)
                label = f"{name}, {bins}" + (", semantic" if semantic is not None else "")
                rois, grid = empty(512, 5), (1 / 8, 14)
                take(label, roi_align.multi_level_roi_align, maps, rois, bins, bins, *options, semantic, *grid)
                if semantic is not None:
                    for deterministic in (True, False):
                        backward = roi_align_backward.multi_level_roi_align_backward
                        take(f"{name}, {bins}", backward, grad, rois, sizes, *options, True, *grid, deterministic)
        odd = [empty(2, 50, 50, 19, dtype=dtype).permute(0, 3, 1, 2)]
        options = [0.25], 2, False, 1.0, None, 1.0, 1
        take(f"{name}, odd", roi_align.multi_level_roi_align, odd, empty(2, 33, 4), 3, 5, *options)
    boxes, scores, idxs = empty(2, 5000, 4), empty(2, 5000), empty(2, 5000, dtype=torch.int64)
    for most in (100, 1000):
        take("", nms.batched_nms_padded, boxes, scores, idxs, 0.5, most, 0.0)
    for name, dtype in TYPES.items():
        matrix_cases(name, lambda *shape, dtype=dtype: empty(*shape, dtype=dtype), take)
        tma_cases(name, lambda *shape, dtype=dtype: empty(*shape, dtype=dtype), take)
    flag, torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.conv.fp32_precision, "ieee"
    try:
        matrix_cases("exact fp32", empty, take)
    finally:
        torch.backends.cudnn.conv.fp32_precision = flag
    return found


def matrix_cases(name: str, empty, take) -> None:
    """The mask branch at 100 boxes and the semantic fusion; float32 on tensor cores and, once, without."""
    from htc_fast.ops.triton import (
        conv3x3_relu,
        convolution,
        fold_images,
        mask_branch,
        mask_flow,
        mask_predict,
        mask_predict_backward,
        mask_predict_resident,
        max_pool,
        pad_images,
        resample,
        semantic_merge,
        stem,
    )

    def maps(count: int, channels: int, height: int, width: int) -> Tensor:
        return empty(count, height, width, channels).permute(0, 3, 1, 2)

    labels = torch.empty(100, dtype=torch.int64, device="meta")
    x, bias, up_weight = maps(100, 256, 14, 14), empty(256), maps(256, 256, 2, 2)
    logits, logits_bias = empty(80, 256, 1, 1), empty(80)
    for count, size in ((100, ""), (12, ", few"), (1000, ", many")):
        some = maps(count, 256, 14, 14)
        take(f"3x3, {name}{size}", conv3x3_relu.conv3x3_relu, some, maps(256, 256, 3, 3), bias, None, None)
    counts = torch.empty(1, dtype=torch.int32, device="meta")
    take(f"3x3 residual counted, {name}", conv3x3_relu.conv3x3_relu, x, maps(256, 256, 3, 3), bias, x, counts)
    take(f"3x3 backward, {name}", conv3x3_relu.conv3x3_relu_backward, x, x, x, maps(256, 256, 3, 3), None)
    take(f"flow, {name}", mask_flow.mask_flow, x, x, empty(256, 256, 1, 1), bias)
    take(f"flow backward, {name}", mask_flow.mask_flow_backward, x, x, empty(256, 256, 1, 1), bias)
    head = [maps(256, 256, 3, 3), bias, up_weight, bias, logits, logits_bias]
    take(
        f"branch, {name}",
        mask_branch.mask_branch,
        x,
        labels,
        [*head, empty(256, 256, 1, 1), bias, *head],
        [1, 1],
        [False, True],
        [0, 1],
    )
    for one, what in ((labels, "one class"), (None, "all classes")):
        grad = empty(100, 28, 28) if one is not None else maps(100, 80, 28, 28)
        take(f"{what}, {name}", mask_predict.mask_predict, x, up_weight, bias, logits, logits_bias, one)
        take(f"{what}, {name}", mask_predict_backward.mask_predict_backward, grad, x, up_weight, bias, logits, one)
    if name in ("bf16", "fp16"):
        given, out = [x, up_weight, bias, logits, logits_bias, labels], empty(100, 28, 28, dtype=torch.float32)
        sizes, plan = mask_predict.sizes_of(x, up_weight, logits), mask_predict_resident.Plan(33, 256, 256, 3)
        take(name, mask_predict_resident.predict_class_resident, given, out, sizes, plan, 2, 1 / 3)
        resident_cases(name, maps, empty, take)
    levels = [maps(1, 256, h, w) for h, w in ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))]
    weights, biases = [empty(256, 256, 1, 1)] * 5, [bias] * 5
    take(name, semantic_merge.semantic_merge, levels, weights, biases, 1)
    take(f"merge backward, {name}", semantic_merge.semantic_merge_backward, levels[1], levels, weights, biases, 1)
    take(f"3x3 sum, {name}", convolution.convolution_sum, levels[0], maps(256, 256, 3, 3), bias, None, False)
    take(f"1x1 sum, {name}", convolution.convolution_sum, levels[0], maps(256, 256, 1, 1), bias, levels[0], False)
    for x, coarser in ((maps(1, 1024, 50, 84), levels[3]), (levels[0], levels[1])):
        take(f"lateral {x.shape[1]}, {name}", convolution.lateral, x, empty(256, x.shape[1], 1, 1), bias, coarser)
    if name != "exact fp32":
        images = torch.empty(1, 800, 1344, 3, device="meta").permute(0, 3, 1, 2)
        take(name, pad_images.pad_images, images, 16 // bias.element_size(), bias.dtype)
        take(name, max_pool.max_pool, maps(1, 64, 400, 672))
    if name in ("bf16", "fp16"):
        take(name, fold_images.fold_images, images, bias.dtype)
        take(name, stem.stem, maps(1, 16, 403, 675), maps(64, 16, 4, 4), empty(64), True)
    lines, shape = empty(100, 84, 256, dtype=torch.float32), (1, 100, 50, 84)
    take(f"merge backward, lines, {name}", resample.fold_axis, [lines], None, levels[2:3], [shape], 256)
    odd = [maps(3, 19, h, w) for h, w in ((5, 7), (2, 9), (3, 2))]
    given = odd, [empty(33, 19, 1, 1)] * 3, [empty(33)] * 3
    take(f"odd, {name}", semantic_merge.semantic_merge, *given, 0)
    take(f"odd merge backward, {name}", semantic_merge.semantic_merge_backward, maps(3, 33, 5, 7), *given, 0)
    odd = maps(3, 19, 5, 7)
    take(f"odd, {name}", conv3x3_relu.conv3x3_relu, odd, maps(33, 19, 3, 3), empty(33), None, None)


def resident_cases(name: str, maps, empty, take) -> None:
    """What sm_90 launches instead: laterals, a residual of 64 channels; the semantic fusion."""
    from htc_fast.ops.triton import merge_boxes, resident
    from htc_fast.ops.triton.epilogue import NEAREST, RELU

    fine, coarse = maps(1, 256, 200, 336), maps(1, 256, 100, 168)
    lateral, shallow = resident.Plan(64, 256, 256, 132), resident.Plan(64, 128, 64, 132, 4)
    for what, x, out, extra, epilogue, plan in (
        ("lateral 256", fine, fine, coarse, NEAREST, lateral),
        ("lateral, any size", fine, fine, maps(1, 256, 99, 167), NEAREST, lateral),
        ("residual 64", maps(1, 64, 200, 336), fine, fine, RELU, shallow),
        ("odd", maps(100, 19, 14, 14), maps(100, 256, 14, 14), maps(100, 256, 14, 14), RELU, shallow),
    ):
        weight = empty(256, x.shape[1])
        take(f"{what}, {name}", resident.product_resident, x, weight, empty(256), extra, out, epilogue, plan)
    small, fine = [maps(1, 256, *size) for size in ((50, 84), (25, 42), (13, 21))], [coarse, coarse]
    take(name, merge_boxes.merge_boxes, fine, [empty(256, 256)] * 2, [empty(256)] * 2, small, coarse)


def tma_cases(name: str, empty, take) -> None:
    """What a GPU with bulk copies launches instead: every tile, and the gradient, which float32 leaves to the other."""
    from htc_fast.ops.triton.epilogue import PLAIN, RELU, SUM
    from htc_fast.ops.triton.tiles import AHEAD, BOXES, COPIED, fits
    from htc_fast.ops.triton.tma import tma_product

    x, weight, bias = empty(100, 14, 14, 256).permute(0, 3, 1, 2), empty(256, 3, 3, 256).permute(0, 3, 1, 2), empty(256)
    for tile in COPIED:
        one = fits(replace(tile, depth=128 // x.element_size(), box=BOXES[tile.rows][0]), x.element_size(), AHEAD)
        label = f"{tile.rows}x{tile.outputs}, {name}"
        take(label, tma_product, x, weight, x, one, False, RELU, bias)
        take(f"{label}, sum", tma_product, x, weight, x, one, False, SUM, bias)
        if x.element_size() == 2:
            take(f"{label}, backward", tma_product, x, weight, x, one, True, PLAIN)
            if tile.rows * tile.outputs <= 2048 * tile.warps:
                take(f"{label}, residual", tma_product, x, weight, x, one, False, RELU, bias, x)
