// Some thousand boxes in order: a box's place is how many are better, counted by all multiprocessors at once.
//   nms_order  per tile of a group: puts its boxes where they belong in the group
//   nms_rank   per tile: puts those that stay where they belong in the image
#pragma once
#include "cuda/block_scan.cuh"
#include "cuda/nms_tiles.cuh"

namespace htc::cuda {
namespace {

constexpr int kParts = kThreads / kChunk;  // threads that count for one box

struct OrderShared {
  GroupTable table;
  ScanShared<int> scan;
  uint32_t indices[kChunk];  // the tile's boxes
  int places[kChunk];
};

// The group's scores, ordered as integers, go to shared memory by index, where this tile's boxes are the chunk-th 64.
__device__ __forceinline__ void gather_group(const NmsParams& p, OrderShared& s, int image, Tile tile,
                                             uint32_t* scores) {
  const uint4* words = reinterpret_cast<const uint4*>(p.group_of + image * p.padded);
  const uint64_t* keys = p.keys + image * p.count;
  int filled = 0;
  for (int64_t begin = 0; begin < p.padded / 16; begin += kThreads) {
    const int64_t at = begin + threadIdx.x;
    unsigned hits = 0;
    if (at < p.padded / 16) {
      const uint4 raw = words[at];
      const uint32_t four[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
      for (int i = 0; i < 16; i++)
        hits |= static_cast<unsigned>((four[i / 4] >> i % 4 * 8 & 255u) == static_cast<uint32_t>(tile.group)) << i;
    }
    const Prefix<int> prefix = block_prefix(s.scan, __popc(hits));
    for (int place = filled + prefix.before; hits != 0; hits &= hits - 1, place++) {
      const int64_t index = at * 16 + __ffs(static_cast<int>(hits)) - 1;
      scores[place] = static_cast<uint32_t>(keys[index] >> 32);
      if (place / kChunk == tile.chunk) s.indices[place % kChunk] = static_cast<uint32_t>(index);
    }
    filled += prefix.total;
  }
  for (int i = filled + static_cast<int>(threadIdx.x); i < (filled + 3) / 4 * 4; i += kThreads) scores[i] = 0;
}

// How many of the scores first..end-1 (in fours) are above the limit; kParts threads share the count.
__device__ __forceinline__ int count_above(const uint32_t* scores, int first, int end, uint32_t limit) {
  const uint4* fours = reinterpret_cast<const uint4*>(scores);
  int above = 0;
  for (int i = first / 4 + static_cast<int>(threadIdx.x) / kChunk; i < ceil_div(end, 4); i += kParts) {
    const uint4 four = fours[i];
    above += (four.x > limit) + (four.y > limit) + (four.z > limit) + (four.w > limit);
  }
  return above;
}

__global__ void __launch_bounds__(kThreads, 2) nms_order(const __grid_constant__ NmsParams p) {
  HTC_SHARED(OrderShared, s);
  uint32_t* scores = dynamic_shared<uint32_t>();
  const int image = static_cast<int>(blockIdx.x / p.tiles), thread = static_cast<int>(threadIdx.x);
  make_table(p, image, s.table);
  if (thread < kChunk) s.places[thread] = 0;
  __syncthreads();
  const Tile tile = tile_at(s.table, static_cast<int>(blockIdx.x - image * p.tiles));
  if (tile.group < 0) return;
  gather_group(p, s, image, tile, scores);
  __syncthreads();
  const int size = s.table.size(tile.group), begin = tile.chunk * kChunk, own = thread % kChunk;
  if (begin + own < size) {
    const uint32_t score = scores[begin + own];
    // Of equal scores those before it are better. No candidate's is 0.
    int better = count_above(scores, 0, begin, score - 1) + count_above(scores, begin + kChunk, size, score);
    for (int j = thread / kChunk; j < min(kChunk, size - begin); j += kParts)
      better += scores[begin + j] > score - (j < own ? 1 : 0);
    if (better > 0) atomicAdd(&s.places[own], better);
  }
  __syncthreads();
  if (thread >= kChunk || begin + own >= size) return;
  const int64_t index = s.indices[own], from = image * p.count + index;
  const int64_t to = image * p.count + s.table.begins[tile.group] + s.places[own];
  p.kept_keys[to] = p.keys[from];
  p.kept_boxes[to] = load_box(p.boxes + 4 * from);
  p.kept_classes[to] = p.classes == nullptr ? 0 : p.classes[from];
}

// Which of a tile's boxes stay, once all is decided.
__device__ __forceinline__ uint64_t stays_of(const NmsParams& p, int64_t tile) {
  return static_cast<uint32_t>(p.states[2 * tile]) | p.states[2 * tile + 1] << 32;
}

struct RankShared {
  GroupTable table;
  int kept[kMaxGroups];  // per group
  int places[kChunk];
  int total;
};

// How many of a group's kept boxes are better than the key.
__device__ __forceinline__ int better_kept(const NmsParams& p, const RankShared& s, int image, int group,
                                           uint64_t key) {
  const uint64_t* keys = p.kept_keys + image * p.count + s.table.begins[group];
  const int size = s.table.size(group);
  int low = 0;
  for (int left = size; left > 0;) {
    const int step = left / 2;
    const bool better = keys[low + step] > key;
    low = better ? low + step + 1 : low;
    left = better ? left - step - 1 : step;
  }
  if (low == size) return s.kept[group];
  const int64_t tile = image * p.tiles + s.table.tiles[group] + low / kChunk;
  return p.kept_before[tile] + __popcll(stays_of(p, tile) & ((uint64_t{1} << low % kChunk) - 1));
}

__global__ void __launch_bounds__(kThreads, 2) nms_rank(const __grid_constant__ NmsParams p) {
  HTC_SHARED(RankShared, s);
  const int image = static_cast<int>(blockIdx.x / p.tiles), n = static_cast<int>(blockIdx.x - image * p.tiles);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  make_table(p, image, s.table);
  if (thread < kChunk) s.places[thread] = 0;
  if (thread == 0) s.total = 0;
  __syncthreads();
  if (thread < kMaxGroups) {
    const int64_t last = image * p.tiles + s.table.tiles[thread + 1] - 1;
    s.kept[thread] = s.table.size(thread) == 0 ? 0 : p.kept_before[last] + __popcll(stays_of(p, last));
    if (s.kept[thread] > 0) atomicAdd(&s.total, s.kept[thread]);
  }
  __syncthreads();
  int64_t* out = p.indices + image * p.max_output;
  for (int64_t i = s.total + int64_t{kThreads} * n + thread; i < p.max_output; i += kThreads * p.tiles) out[i] = -1;
  if (n == 0 && thread == 0) p.counts[image] = static_cast<int32_t>(min(int64_t{s.total}, p.max_output));
  const Tile tile = tile_at(s.table, n);
  if (tile.group < 0) return;
  const uint64_t stays = stays_of(p, image * p.tiles + n);
  const int64_t first = image * p.count + s.table.begins[tile.group] + tile.chunk * kChunk;
  // A warp looks for half of the tile's boxes in some of the groups: neighbours search along nearly the same keys.
  const int box = warp % 2 * 32 + lane;
  if (stays >> box & 1) {
    const uint64_t key = p.kept_keys[first + box];
    int better = 0;
    for (int group = warp / 2; group < p.groups; group += kWarps / 2)
      if (s.kept[group] > 0) better += better_kept(p, s, image, group, key);
    if (better > 0) atomicAdd(&s.places[box], better);
  }
  __syncthreads();
  if (thread < kChunk && stays >> thread & 1 && s.places[thread] < p.max_output)
    out[s.places[thread]] = index_of(p.kept_keys[first + thread]);
}

}  // namespace
}  // namespace htc::cuda
