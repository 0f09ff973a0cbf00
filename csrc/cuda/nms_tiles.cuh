// Groups as lists of tiles: 64 boxes each, best first. Which tile is whose.
#pragma once
#include "cuda/nms_overlap.cuh"

namespace htc::cuda {
namespace {

// Where each group begins, among its image's sorted boxes and among its tiles; behind the last one, how many there are.
struct GroupTable {
  int begins[kMaxGroups + 1];
  int tiles[kMaxGroups + 1];

  __device__ int size(int group) const { return begins[group + 1] - begins[group]; }
  __device__ int all_tiles() const { return tiles[kMaxGroups]; }
};

// By the block's first warp; the other threads have to meet it at a barrier.
__device__ __forceinline__ void make_table(const NmsParams& p, int image, GroupTable& table) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane >= 32) return;
  int sizes[kMaxGroups / 32], boxes = 0, tiles = 0;
#pragma unroll
  for (int k = 0; k < kMaxGroups / 32; k++) {
    const int group = kMaxGroups / 32 * lane + k;
    sizes[k] = group < p.groups ? p.sizes[image * p.groups + group] : 0;
    boxes += sizes[k];
    tiles += ceil_div(sizes[k], kChunk);
  }
  int begin = boxes, tile = tiles;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int boxes_before = __shfl_up_sync(~0u, begin, step), tiles_before = __shfl_up_sync(~0u, tile, step);
    if (lane >= step) begin += boxes_before, tile += tiles_before;
  }
  if (lane == 31) table.begins[kMaxGroups] = begin, table.tiles[kMaxGroups] = tile;
  begin -= boxes, tile -= tiles;
#pragma unroll
  for (int k = 0; k < kMaxGroups / 32; k++) {
    table.begins[kMaxGroups / 32 * lane + k] = begin, table.tiles[kMaxGroups / 32 * lane + k] = tile;
    begin += sizes[k], tile += ceil_div(sizes[k], kChunk);
  }
}

struct Tile {
  int group, chunk;  // the chunk-th of its group; no group: -1
};

// The n-th tile, group after group.
__device__ __forceinline__ Tile tile_at(const GroupTable& table, int n) {
  if (n >= table.all_tiles()) return {-1, 0};
  int low = 0, high = kMaxGroups;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.tiles[middle] <= n ? low : high) = middle;
  }
  return {low, n - table.tiles[low]};
}

// The n-th tile where all groups' first ones come first, then the second ones: so no group waits for a long one. By a
// whole warp.
__device__ __forceinline__ Tile tile_in_turn(const GroupTable& table, int n) {
  if (n >= table.all_tiles()) return {-1, 0};
  const int first = kMaxGroups / 32 * (static_cast<int>(threadIdx.x) % 32);
  int counts[kMaxGroups / 32];
#pragma unroll
  for (int k = 0; k < kMaxGroups / 32; k++) counts[k] = table.tiles[first + k + 1] - table.tiles[first + k];
  auto tiles_of_first = [&](int chunks) {
    int sum = 0;
#pragma unroll
    for (int k = 0; k < kMaxGroups / 32; k++) sum += min(counts[k], chunks);
    return __reduce_add_sync(~0u, sum);
  };
  int chunk = n / kMaxGroups, behind = n + 1;
  while (behind - chunk > 1) {
    const int middle = chunk + (behind - chunk) / 2;
    (tiles_of_first(middle) <= n ? chunk : behind) = middle;
  }
  const int nth = n - tiles_of_first(chunk);
  int mine = 0;
#pragma unroll
  for (int k = 0; k < kMaxGroups / 32; k++) mine += counts[k] > chunk;
  int before = mine;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int lower = __shfl_up_sync(~0u, before, step);
    if (first / (kMaxGroups / 32) >= step) before += lower;
  }
  before -= mine;
  int group = -1;
#pragma unroll
  for (int k = 0; k < kMaxGroups / 32; k++)
    if (counts[k] > chunk && before++ == nth) group = first + k;
  return {__reduce_max_sync(~0u, group), chunk};
}

}  // namespace
}  // namespace htc::cuda
