"""Gradient of multi-level RoIAlign in Triton, twice: gathered by tiles of the maps, or scattered by atomic adds.

`gather` is deterministic: RoIs are sorted by (image, level), one program owns a tile of a map and adds up the RoIs that
touch it, in order, as weights [cells, bins] times gradients [bins, channels]. Every element is written once, in its own
type: no zeroing, no float32 copy of the maps, no second pass.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import check_floats, launch, odd, power_of_two
from htc_fast.ops.triton.roi_align import bins_and_grid, block_sizes, programs
from htc_fast.ops.triton.taps import along, cell_weight, level_of, load_box, pick, size_of, tap, tap_range, window

ROWS = tl.constexpr(16)


@triton.jit(do_not_specialize=["count", "per_image", "images"])
def sort_keys(rois, keys, count, per_image, images, finest_size, LEVELS: tl.constexpr, HAS_IMAGE: tl.constexpr,
              BLOCK: tl.constexpr):  # fmt: skip
    """keys [K] = image * LEVELS + level; RoIs that count for nothing come last."""
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    image, x1, y1, x2, y2, good = load_box(rois, k, per_image, images, HAS_IMAGE, k < count)
    key = image * LEVELS + level_of(x1, y1, x2, y2, finest_size, LEVELS)
    tl.store(keys + k, tl.where(good, key, images * LEVELS), mask=k < count)


@triton.jit
def axis_share(cell, p, start, length, samples, step, most, size, BINS: tl.constexpr, grid):
    """Share [cells, bins] of each cell in the mean of each bin, along one axis."""
    first, count = window(p, start, length, samples, BINS, grid)
    weight = cell_weight(cell[:, None], first[None, :], step, count[None, :], most, size)
    return tl.where(p < BINS, 1.0, 0.0)[None, :] * weight / tl.maximum(count, 1).to(tl.float32)[None, :]


@triton.jit
def touches(p, start, length, tile, BINS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, grid):
    """Whether bins p .. p + BLOCK - 1 can reach cells tile .. tile + TILE - 1."""
    one = start + (p * grid // BINS).to(tl.float32) * length
    other = start + ((tl.minimum(p + BLOCK, BINS) * grid + BINS - 1) // BINS).to(tl.float32) * length
    return (tl.maximum(one, other) + 1.0 >= tile) & (tl.minimum(one, other) - 1.0 <= tile + TILE)


@triton.jit
def add_roi(total, rois, grad, k, per_image, images, channels, scale, height, width, tile_y, tile_x, c, sampling_ratio,
            grid_y, grid_x, wide_y, wide_x, BINS_Y: tl.constexpr, BINS_X: tl.constexpr, ALIGNED: tl.constexpr,
            HAS_IMAGE: tl.constexpr, TILE: tl.constexpr, BINS: tl.constexpr):  # fmt: skip
    """Add what RoI k gives to a tile: total [TILE * TILE, C] += shares [TILE * TILE, bins] x grad [bins, C]."""
    _, x1, y1, x2, y2, _ = load_box(rois, k, per_image, images, HAS_IMAGE)
    start_y, length_y, samples_y, step_y = along(y1, y2, scale, sampling_ratio, grid_y, ALIGNED)
    start_x, length_x, samples_x, step_x = along(x1, x2, scale, sampling_ratio, grid_x, ALIGNED)
    cell_y, cell_x = tile_y + tl.arange(0, TILE), tile_x + tl.arange(0, TILE)
    bin = tl.arange(0, BINS)
    both = tl.arange(0, BINS * BINS)
    for top in range(0, BINS_Y, BINS):
        if touches(top, start_y, length_y, tile_y, BINS_Y, BINS, TILE, grid_y):
            share_y = axis_share(cell_y, top + bin, start_y, length_y, samples_y, step_y, samples_y * wide_y, height,
                                 BINS_Y, grid_y)  # fmt: skip
            for left in range(0, BINS_X, BINS):
                if touches(left, start_x, length_x, tile_x, BINS_X, BINS, TILE, grid_x):
                    share_x = axis_share(cell_x, left + bin, start_x, length_x, samples_x, step_x, samples_x * wide_x,
                                         width, BINS_X, grid_x)  # fmt: skip
                    shares = share_y[:, None, :, None] * share_x[None, :, None, :]
                    shares = tl.reshape(shares, [TILE * TILE, BINS * BINS])
                    p_y, p_x = top + both // BINS, left + both % BINS
                    at = ((k * BINS_Y + p_y) * BINS_X + p_x)[:, None] * channels + c[None, :]
                    inside = ((p_y < BINS_Y) & (p_x < BINS_X))[:, None] & (c < channels)[None, :]
                    given = tl.load(grad + at, mask=inside, other=0.0)
                    if grad.dtype.element_ty == tl.float32:
                        total = tl.dot(shares, given, total, input_precision="tf32x3")
                    else:
                        # Two 16-bit halves keep the weights as exact as float32 would.
                        coarse = shares.to(given.dtype)
                        total = tl.dot(coarse, given, total)
                        total = tl.dot((shares - coarse.to(tl.float32)).to(given.dtype), given, total)
    return total


@triton.jit(do_not_specialize=["per_image", "images", "sampling_ratio"])
def gather(grads, heights, widths, scales, tile_ends, rois, order, starts, grad, per_image, images, channels,
           sampling_ratio, BINS_Y: tl.constexpr, BINS_X: tl.constexpr, GRID_Y: tl.constexpr, GRID_X: tl.constexpr,
           WIDE_Y: tl.constexpr, WIDE_X: tl.constexpr, LEVELS: tl.constexpr, ALIGNED: tl.constexpr,
           HAS_IMAGE: tl.constexpr, TILE: tl.constexpr, BINS: tl.constexpr, BLOCK_C: tl.constexpr,
           BLOCK_R: tl.constexpr):  # fmt: skip
    """grads: levels, then the semantic map, each [N, H, W, C] contiguous; order, starts: RoIs sorted by `sort_keys`."""
    program = tl.program_id(0)
    blocks_c = tl.cdiv(channels, BLOCK_C)
    c = (program % blocks_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = program // blocks_c
    m, begin = 0, 0
    for i in tl.static_range(0, len(tile_ends) - 1):
        end = size_of(tile_ends, i)
        m = tl.where(tile >= end, i + 1, m)
        begin = tl.where(tile >= end, end, begin)
    height, width, scale = size_of(heights, m), size_of(widths, m), pick(scales, m)
    tiles_x = tl.cdiv(width, TILE)
    per_map = tiles_x * tl.cdiv(height, TILE)
    image = (tile - begin) // per_map
    tile_y, tile_x = (tile - begin) % per_map // tiles_x * TILE, (tile - begin) % tiles_x * TILE
    is_level = m < LEVELS
    grid_y, grid_x = tl.where(is_level, BINS_Y, GRID_Y), tl.where(is_level, BINS_X, GRID_X)
    wide_y, wide_x = tl.where(is_level, 1, WIDE_Y), tl.where(is_level, 1, WIDE_X)
    segment = image * LEVELS + tl.where(is_level, m, 0)
    last = tl.load(starts + segment + tl.where(is_level, 1, LEVELS))
    total = tl.zeros([TILE * TILE, BLOCK_C], tl.float32)
    lane = tl.arange(0, BLOCK_R)
    for chunk in range(tl.load(starts + segment), last, BLOCK_R):
        k = tl.load(order + chunk + lane, mask=chunk + lane < last, other=0)
        _, x1, y1, x2, y2, _ = load_box(rois, k, per_image, images, HAS_IMAGE, chunk + lane < last)
        # Two cells of slack for half pixels, the reach of a tap and the least size.
        hit = (tl.maximum(y1, y2) * scale + 2.0 >= tile_y) & (tl.minimum(y1, y2) * scale - 2.0 <= tile_y + TILE)
        hit &= (tl.maximum(x1, x2) * scale + 2.0 >= tile_x) & (tl.minimum(x1, x2) * scale - 2.0 <= tile_x + TILE)
        following = tl.min(tl.where(hit, lane, BLOCK_R), axis=0)
        while following < BLOCK_R:
            total = add_roi(total, rois, grad, tl.load(order + chunk + following), per_image, images, channels, scale,
                            height, width, tile_y, tile_x, c, sampling_ratio, grid_y, grid_x, wide_y, wide_x,
                            BINS_Y, BINS_X, ALIGNED, HAS_IMAGE, TILE, BINS)  # fmt: skip
            following = tl.min(tl.where(hit & (lane > following), lane, BLOCK_R), axis=0)
    cell = tl.arange(0, TILE * TILE)
    y, x = tile_y + cell // TILE, tile_x + cell % TILE
    out = pick(grads, m) + image.to(tl.int64) * height * width * channels
    at = (y.to(tl.int64) * width + x)[:, None] * channels + c[None, :]
    inside = ((y < height) & (x < width))[:, None] & (c < channels)[None, :]
    tl.store(out + at, total.to(grads[0].dtype.element_ty), mask=inside)


@triton.jit
def add_bins(plane, row_stride, given, height, width, first_y, step_y, count_y, most_y, first_x, step_x, count_x,
             most_x, channels, c, wanted, TAPS: tl.constexpr):  # fmt: skip
    """Add a row of bins' gradients, given [BINS, C], to every cell of one map that they were read from."""
    low_y, taps_y = tap_range(first_y, step_y, count_y, most_y, height)
    low_x, taps_x = tap_range(first_x, step_x, count_x, most_x, width)
    taps_x = tl.where(wanted, taps_x, 0)
    samples = tl.maximum(count_y, 1).to(tl.float32) * tl.maximum(count_x, 1).to(tl.float32)
    given = given * tl.div_rn(1.0, samples)[:, None]
    longest = tl.max(taps_x, axis=0)
    for top in range(0, taps_y, ROWS):
        rows, weight_rows = tap(top + tl.arange(0, ROWS), low_y, first_y, step_y, count_y, most_y, height)
        for left in range(0, longest, TAPS):
            j = left + tl.arange(0, TAPS)[:, None]
            columns, weight_x = tap(j, low_x[None, :], first_x[None, :], step_x, count_x[None, :], most_x, width)
            mask = (j < taps_x[None, :])[:, :, None] & (c < channels)[None, None, :]
            at_x = (columns.to(tl.int64) * channels)[:, :, None] + c[None, None, :]
            column = given[None, :, :] * weight_x[:, :, None]
            for i in range(0, tl.minimum(taps_y - top, ROWS)):
                lane = tl.full([1], i, tl.int32)
                at = (tl.gather(rows, lane, 0).to(tl.int64) * row_stride)[:, None, None] + at_x
                value = column * tl.gather(weight_rows, lane, 0)[:, None, None]
                tl.atomic_add(plane + at, value, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=["per_image", "images", "sampling_ratio"])
def scatter(grads, heights, widths, scales, rois, grad, per_image, images, channels, sampling_ratio, finest_size,
            BINS_Y: tl.constexpr, BINS_X: tl.constexpr, GRID_Y: tl.constexpr, GRID_X: tl.constexpr,
            WIDE_Y: tl.constexpr, WIDE_X: tl.constexpr, LEVELS: tl.constexpr, SEMANTIC: tl.constexpr,
            ALIGNED: tl.constexpr, HAS_IMAGE: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
            TAPS: tl.constexpr):  # fmt: skip
    """grads: float32 zeros [N, H, W, C], levels and then the semantic map; one program per row of bins, as forward."""
    program = tl.program_id(0)
    blocks_c = tl.cdiv(channels, BLOCK_C)
    blocks_x: tl.constexpr = (BINS_X + BLOCK_X - 1) // BLOCK_X
    c = (program % blocks_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    rest = program // blocks_c
    p_x = (rest % blocks_x) * BLOCK_X + tl.arange(0, BLOCK_X)
    rest = rest // blocks_x
    p_y = rest % BINS_Y
    k = (rest // BINS_Y).to(tl.int64)
    image, x1, y1, x2, y2, good = load_box(rois, k, per_image, images, HAS_IMAGE)
    if good:
        level = level_of(x1, y1, x2, y2, finest_size, LEVELS)
        at = ((k * BINS_Y + p_y) * BINS_X + p_x[:, None]) * channels + c[None, :]
        inside = (p_x < BINS_X)[:, None] & (c < channels)[None, :]
        given = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        for which in range(0, 1 + SEMANTIC):
            m = tl.where(which == 0, level, LEVELS)
            grid_y, grid_x = tl.where(which == 0, BINS_Y, GRID_Y), tl.where(which == 0, BINS_X, GRID_X)
            box_y = along(y1, y2, pick(scales, m), sampling_ratio, grid_y, ALIGNED)
            box_x = along(x1, x2, pick(scales, m), sampling_ratio, grid_x, ALIGNED)
            most_y = box_y[2] * tl.where(which == 0, 1, WIDE_Y)
            most_x = box_x[2] * tl.where(which == 0, 1, WIDE_X)
            height, width = size_of(heights, m), size_of(widths, m)
            first_y, count_y = window(p_y, box_y[0], box_y[1], box_y[2], BINS_Y, grid_y)
            first_x, count_x = window(p_x, box_x[0], box_x[1], box_x[2], BINS_X, grid_x)
            plane = pick(grads, m) + image.to(tl.int64) * height * width * channels
            add_bins(plane, width * channels, given, height, width, first_y, box_y[3], count_y, most_y, first_x,
                     box_x[3], count_x, most_x, channels, c, p_x < BINS_X, TAPS)  # fmt: skip


def multi_level_roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    sizes: list[int],
    spatial_scales: list[float],
    sampling_ratio: int,
    aligned: bool,
    finest_size: float,
    has_semantic: bool,
    semantic_scale: float,
    semantic_grid: int,
    deterministic: bool = True,
) -> list[Tensor]:
    """Gradients of the maps, channels-last, from grad [K, C, h, w]; sizes: N, then H and W of every map."""
    check_floats("gradients", grad)
    images, heights, widths = sizes[0], tuple(sizes[1::2]), tuple(sizes[2::2])
    scales = (*map(float, spatial_scales), *([float(semantic_scale)] if has_semantic else []))
    rois, grad = rois.detach().float().contiguous(), grad.permute(0, 2, 3, 1).contiguous()
    common = dict(**bins_and_grid(*grad.shape[1:3], semantic_grid), LEVELS=len(heights) - has_semantic,
                  ALIGNED=aligned, HAS_IMAGE=rois.dim() == 2)  # fmt: skip
    call = _gathered if deterministic else _scattered
    grads = call(grad, rois, images, heights, widths, scales, sampling_ratio, float(finest_size), common)
    return [one.permute(0, 3, 1, 2) for one in grads]


def _sorted(rois: Tensor, images: int, finest_size: float, levels: int) -> tuple[Tensor, Tensor]:
    """RoIs in the order of (image, level), stable, and where each of these begins [N * L + 1]."""
    count = rois.numel() // rois.shape[-1]
    keys = torch.empty(count, dtype=torch.int32, device=rois.device)
    launch(sort_keys, triton.cdiv(count, 128), rois.device, rois, keys, count, rois.shape[-2], images, finest_size,
           LEVELS=levels, HAS_IMAGE=rois.dim() == 2, BLOCK=128)  # fmt: skip
    keys, order = torch.sort(keys, stable=True)
    groups = torch.arange(images * levels + 1, dtype=torch.int32, device=rois.device)
    return order, torch.searchsorted(keys, groups, out_int32=True)


def _gathered(grad, rois, images, heights, widths, scales, sampling_ratio, finest_size, common) -> list[Tensor]:
    channels, tile = grad.shape[3], 8
    order, starts = _sorted(rois, images, finest_size, common["LEVELS"])
    grads = [grad.new_empty(images, height, width, channels) for height, width in zip(heights, widths)]
    tile_ends, total = [], 0
    for height, width in zip(heights, widths):
        total += images * triton.cdiv(height, tile) * triton.cdiv(width, tile)
        tile_ends.append(total)
    # Chosen so that nothing spills: three TF32 products per float32 one need twice the registers.
    block_c = power_of_two(channels, 32 if grad.dtype == torch.float32 else 64)
    launch(gather, total * triton.cdiv(channels, block_c), grad.device, tuple(grads), odd(heights), odd(widths), scales,
           odd(tile_ends), rois, order, starts, grad, rois.shape[-2], images, channels, sampling_ratio,
           **common, TILE=tile, BINS=8, BLOCK_C=block_c, BLOCK_R=128, num_warps=4, maxnreg=255)  # fmt: skip
    return grads


def _scattered(grad, rois, images, heights, widths, scales, sampling_ratio, finest_size, common) -> list[Tensor]:
    count, out_h, out_w, channels = grad.shape
    grads = [
        torch.zeros(images, height, width, channels, dtype=torch.float32, device=grad.device)
        for height, width in zip(heights, widths)
    ]
    sizes = block_sizes(out_w, channels, 4)
    launch(scatter, programs(count, out_h, out_w, channels, sizes), grad.device, tuple(grads), odd(heights),
           odd(widths), scales, rois, grad, rois.shape[-2], images, channels, sampling_ratio, finest_size, **common,
           SEMANTIC=len(heights) - common["LEVELS"], **sizes)  # fmt: skip
    return [one.to(grad.dtype) for one in grads]
