"""Gradient of multi-level RoIAlign in Triton, gathered by tiles of the maps: deterministic.

RoIs are sorted by (image, level), one program owns a tile of a map and adds up the RoIs that touch it, in order, as
weights [cells, bins] times gradients [bins, channels]. Every element is written once, in its own type: no zeroing, no
float32 copy of the maps, no second pass. `roi_align_scatter` is the other way.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from htc_fast.ops.triton.launch import check_floats, launch, odd, power_of_two
from htc_fast.ops.triton.roi_align import bins_and_grid
from htc_fast.ops.triton.roi_align_scatter import scattered
from htc_fast.ops.triton.taps import along, cell_weight, level_of, load_box, pick, size_of, window


@triton.jit(do_not_specialize=["count", "per_image", "images"])
def sort_keys(
    rois,  # [K, 5] or [N, R, 4], float32
    keys,  # [K] int32
    count,  # K
    per_image,  # R
    images,  # N
    finest_size,
    LEVELS: tl.constexpr,
    HAS_IMAGE: tl.constexpr,  # whether rois are [K, 5]
    BLOCK: tl.constexpr,
):
    """keys = image * LEVELS + level; RoIs that count for nothing come last."""
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    image, x1, y1, x2, y2, good = load_box(rois, k, per_image, images, HAS_IMAGE, k < count)
    key = image * LEVELS + level_of(x1, y1, x2, y2, finest_size, LEVELS)
    tl.store(keys + k, tl.where(good, key, images * LEVELS), mask=k < count)


@triton.jit
def axis_share(
    cell,  # [cells] of the map
    p,  # [bins] of the output
    axis,  # of the RoI, as `along` gives it: start, length of a bin, samples per bin, distance between two
    wide,  # bins of the grid that an output bin averages at most
    size,  # the map's side
    BINS: tl.constexpr,  # of the output
    grid,  # bins of the RoI
):
    """Share [cells, bins] of each cell in the mean of each bin, along one axis."""
    start, length, samples, step = axis
    most = samples * wide
    first, count = window(p, start, length, samples, BINS, grid)
    weight = cell_weight(cell[:, None], first[None, :], step, count[None, :], most, size)
    return tl.where(p < BINS, 1.0, 0.0)[None, :] * weight / tl.maximum(count, 1).to(tl.float32)[None, :]


@triton.jit
def touches(p, axis, tile, BINS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, grid):
    """Whether bins p .. p + BLOCK - 1 can reach cells tile .. tile + TILE - 1; axis: as above."""
    start, length, _, _ = axis
    one = start + (p * grid // BINS).to(tl.float32) * length
    other = start + ((tl.minimum(p + BLOCK, BINS) * grid + BINS - 1) // BINS).to(tl.float32) * length
    return (tl.maximum(one, other) + 1.0 >= tile) & (tl.minimum(one, other) - 1.0 <= tile + TILE)


@triton.jit
def add_roi(
    total,  # [TILE * TILE, c] float32
    rois,  # [K, 5] or [N, R, 4], float32
    grad,  # [K, BINS_Y, BINS_X, C]
    k,  # which RoI
    sizes,  # R, N, C
    map,  # cells per pixel, height, width
    tile,  # its first cell: y, x
    c,  # [c] channels of the tile
    sampling_ratio,
    grid,  # bins of the RoI along y and x,
    wide,  # and how many of them an output bin averages at most
    BINS_Y: tl.constexpr,
    BINS_X: tl.constexpr,
    ALIGNED: tl.constexpr,
    HAS_IMAGE: tl.constexpr,
    TILE: tl.constexpr,
    BINS: tl.constexpr,  # bins along an axis that are taken at once
):
    """Add what RoI k gives to a tile: total += shares [TILE * TILE, bins] x grad [bins, c]."""
    per_image, images, channels = sizes  # one tuple at a time: Triton 3.6 takes no nested targets
    scale, height, width = map
    tile_y, tile_x = tile
    _, x1, y1, x2, y2, _ = load_box(rois, k, per_image, images, HAS_IMAGE)
    axis_y = along(y1, y2, scale, sampling_ratio, grid[0], ALIGNED)
    axis_x = along(x1, x2, scale, sampling_ratio, grid[1], ALIGNED)
    cell_y, cell_x = tile_y + tl.arange(0, TILE), tile_x + tl.arange(0, TILE)
    bin = tl.arange(0, BINS)
    both = tl.arange(0, BINS * BINS)
    for top in range(0, BINS_Y, BINS):
        if touches(top, axis_y, tile_y, BINS_Y, BINS, TILE, grid[0]):
            share_y = axis_share(cell_y, top + bin, axis_y, wide[0], height, BINS_Y, grid[0])
            for left in range(0, BINS_X, BINS):
                if touches(left, axis_x, tile_x, BINS_X, BINS, TILE, grid[1]):
                    share_x = axis_share(cell_x, left + bin, axis_x, wide[1], width, BINS_X, grid[1])
                    shares = share_y[:, None, :, None] * share_x[None, :, None, :]
                    shares = tl.reshape(shares, [TILE * TILE, BINS * BINS])
                    p_y, p_x = top + both // BINS, left + both % BINS
                    at = ((k * BINS_Y + p_y) * BINS_X + p_x)[:, None] * channels + c[None, :]
                    inside = ((p_y < BINS_Y) & (p_x < BINS_X))[:, None] & (c < channels)[None, :]
                    given = tl.load(grad + at, mask=inside, other=0.0)
                    if grad.dtype.element_ty == tl.float32:
                        # Three products in TF32 err by 2^-22 of a product: a twelfth of what the tests allow. Without
                        # tensor cores these take 2.7 times the cycles (1024 instead of 384 per RoI and tile on sm_90).
                        total = tl.dot(shares, given, total, input_precision="tf32x3")
                    else:
                        # Two 16-bit halves keep the weights as exact as float32 would.
                        coarse = shares.to(given.dtype)
                        total = tl.dot(coarse, given, total)
                        total = tl.dot((shares - coarse.to(tl.float32)).to(given.dtype), given, total)
    return total


@triton.jit(do_not_specialize=["per_image", "images", "sampling_ratio"])
def gather(
    grads,  # of the levels, then of the semantic map if there is one: [N, H, W, C] each, contiguous, written whole
    heights,  # of every map, as `launch.odd` passes numbers
    widths,
    scales,  # cells of every map per pixel
    tile_ends,  # the number of tiles up to and with every map, as `launch.odd`
    rois,  # [K, 5] or [N, R, 4], float32
    order,  # [K] RoIs in the order of `sort_keys`
    starts,  # [N * LEVELS + 1] where each (image, level) begins in it
    grad,  # [K, BINS_Y, BINS_X, C]
    per_image,  # R
    images,  # N
    channels,  # C
    sampling_ratio,
    BINS_Y: tl.constexpr,
    BINS_X: tl.constexpr,
    GRID_Y: tl.constexpr,  # bins of the semantic map's own grid,
    GRID_X: tl.constexpr,
    WIDE_Y: tl.constexpr,  # and how many of them an output bin averages at most
    WIDE_X: tl.constexpr,
    LEVELS: tl.constexpr,
    ALIGNED: tl.constexpr,
    HAS_IMAGE: tl.constexpr,
    TILE: tl.constexpr,  # side of a program's tile of cells,
    BINS: tl.constexpr,  # bins along an axis that it takes at once,
    BLOCK_C: tl.constexpr,  # its channels,
    BLOCK_R: tl.constexpr,  # and RoIs that it looks at at once
):
    """One program: TILE x TILE cells of one map and image, for BLOCK_C channels."""
    program = tl.program_id(0)
    blocks_c = tl.cdiv(channels, BLOCK_C)
    c = (program % blocks_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = program // blocks_c
    # Which map the tile lies on, and which of that map's it is.
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
    # A level is read by its own RoIs; the semantic map by the image's, whatever their level.
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
        # RoIs that touch the tile, one after the other in their order: sums come out the same every time.
        following = tl.min(tl.where(hit, lane, BLOCK_R), axis=0)
        while following < BLOCK_R:
            total = add_roi(
                total,
                rois,
                grad,
                tl.load(order + chunk + following),
                (per_image, images, channels),
                (scale, height, width),
                (tile_y, tile_x),
                c,
                sampling_ratio,
                (grid_y, grid_x),
                (wide_y, wide_x),
                BINS_Y,
                BINS_X,
                ALIGNED,
                HAS_IMAGE,
                TILE,
                BINS,
            )
            following = tl.min(tl.where(hit & (lane > following), lane, BLOCK_R), axis=0)
    cell = tl.arange(0, TILE * TILE)
    y, x = tile_y + cell // TILE, tile_x + cell % TILE
    out = pick(grads, m) + image.to(tl.int64) * height * width * channels
    at = (y.to(tl.int64) * width + x)[:, None] * channels + c[None, :]
    inside = ((y < height) & (x < width))[:, None] & (c < channels)[None, :]
    tl.store(out + at, total.to(grads[0].dtype.element_ty), mask=inside)


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
    common = bins_and_grid(grad.shape[1], grad.shape[2], semantic_grid)
    common |= {"LEVELS": len(heights) - has_semantic, "ALIGNED": aligned, "HAS_IMAGE": rois.dim() == 2}
    call = _gathered if deterministic else scattered
    grads = call(grad, rois, images, heights, widths, scales, sampling_ratio, float(finest_size), common)
    return [one.permute(0, 3, 1, 2) for one in grads]


def _sorted(rois: Tensor, images: int, finest_size: float, levels: int) -> tuple[Tensor, Tensor]:
    """RoIs in the order of (image, level), stable, and where each of these begins [N * L + 1]."""
    count = rois.numel() // rois.shape[-1]
    keys = torch.empty(count, dtype=torch.int32, device=rois.device)
    sizes, options = (count, rois.shape[-2], images), {"LEVELS": levels, "HAS_IMAGE": rois.dim() == 2, "BLOCK": 128}
    launch(sort_keys, triton.cdiv(count, 128), rois.device, rois, keys, *sizes, finest_size, **options)
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
    programs, maps = total * triton.cdiv(channels, block_c), (tuple(grads), odd(heights), odd(widths), scales)
    sizes = rois.shape[-2], images, channels, sampling_ratio
    options = {"TILE": tile, "BINS": 8, "BLOCK_C": block_c, "BLOCK_R": 128, "num_warps": 4, "maxnreg": 255}
    sorted_rois = rois, order, starts
    launch(gather, programs, grad.device, *maps, odd(tile_ends), *sorted_rois, grad, *sizes, **common, **options)
    return grads
