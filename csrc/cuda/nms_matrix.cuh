// Which of a group's best boxes overlap which, as words of bits that all multiprocessors make together, so that the one
// block that walks the group only reads them. For some thousand boxes of which many are wanted: comparing each with all
// that were kept would be one multiprocessor's work of half a million overlaps.
//   nms_sort   per (image, group): its first batch, best first
//   nms_words  per 64 boxes of such a batch: 64 bits for every 64 better ones
#pragma once
#include "cuda/nms_groups.cuh"

namespace htc::cuda {
namespace {

constexpr int kWordThreads = 256, kWordBetter = kWordThreads / 64;  // better tiles per block

// As plain IoU decides; the division is made only where it can matter.
__device__ __forceinline__ bool overlaps(const NmsParams& p, const Box& a, const Box& b) {
  const float width = fmaxf(fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1), 0.0f);
  const float height = fmaxf(fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1), 0.0f);
  const float shared = width * height;
  const float together = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared;
  if (p.threshold > 0.0f && !(shared > together * p.bound)) return false;
  return shared / together > p.threshold;
}

// words of a tile: [better tile][box], the words of the box
__device__ __forceinline__ uint64_t* tile_words(const NmsParams& p, int image, int64_t tile) {
  return p.words + (image * p.tiles + tile) * kWordTiles * kChunk;
}

struct Member {
  Box box;
  int64_t cls;
};
__device__ __forceinline__ Member load_member(const NmsParams& p, int64_t first, uint64_t key) {
  const int64_t at = first + (key != 0 ? index_of(key) : 0);
  return {load_box(p.boxes + 4 * at), p.classes == nullptr ? 0 : p.classes[at]};
}

// Calls visit(key) for every candidate of a group, spread over the block's threads.
template <class Visit>
__device__ __forceinline__ void visit_group(const NmsParams& p, int image, int group, Visit visit) {
  const uint4* words = reinterpret_cast<const uint4*>(p.group_of + image * p.padded);
  for (int64_t w = threadIdx.x; w < p.padded / 16; w += kThreads) {
    const uint4 raw = words[w];
    const uint32_t four[4] = {raw.x, raw.y, raw.z, raw.w};
    for (int i = 0; i < 16; i++)
      if ((four[i / 4] >> i % 4 * 8 & 255u) == static_cast<uint32_t>(group))
        visit(p.keys[image * p.count + w * 16 + i]);
  }
}

struct SortShared {
  SelectShared select;
  int offset, first_tile;
};

// How many tiles a group is given: as many as its first batch can need.
__device__ __forceinline__ int tiles_of(int size) { return ceil_div(min(size, kBatch), kChunk); }

// The batch goes where the kept ones will: they are never more, and the walk reads it before it writes.
__global__ void __launch_bounds__(kThreads) nms_sort(const __grid_constant__ NmsParams p) {
  HTC_SHARED(SortShared, s);
  const int image = static_cast<int>(blockIdx.x), group = static_cast<int>(blockIdx.y);
  const int list = image * p.groups + group, thread = static_cast<int>(threadIdx.x);
  if (p.sizes[list] == 0) {
    if (thread == 0) p.kept[list] = 0;
    return;
  }
  if (thread == 0) s.first_tile = 0;
  const int64_t base = image * p.count + group_offset(p, image, group, s.offset);
  for (int g = thread; g < group; g += kThreads) atomicAdd(&s.first_tile, tiles_of(p.sizes[image * p.groups + g]));
  uint64_t upper = ~uint64_t{0};
  const int size = next_batch(s.select, [&](auto visit) { visit_group(p, image, group, visit); }, upper);
  for (int i = thread; i < size; i += kThreads) p.kept_keys[base + i] = s.select.keys[i];
  for (int i = thread; i < tiles_of(size); i += kThreads) p.tile_groups[image * p.tiles + s.first_tile + i] = group + 1;
  if (thread != 0) return;
  p.kept[list] = size;
  p.uppers[list] = upper;
  p.first_tiles[list] = s.first_tile;
  p.bases[list] = base;
}

struct WordShared {
  Member members[kChunk];
};

// A warp makes the words of 32 boxes for one better tile: its lanes are the better boxes, two each.
__global__ void __launch_bounds__(kWordThreads) nms_words(const __grid_constant__ NmsParams p) {
  HTC_SHARED(WordShared, s);
  const int64_t tile = blockIdx.y;
  const int image = static_cast<int>(blockIdx.x), group = p.tile_groups[image * p.tiles + tile] - 1;
  if (group < 0) return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int list = image * p.groups + group, size = p.kept[list], own = static_cast<int>(tile) - p.first_tiles[list];
  const int better = static_cast<int>(blockIdx.z) * kWordBetter + warp / 2;
  if (better - warp / 2 > own) return;
  const int64_t first = image * p.count;
  const uint64_t* keys = p.kept_keys + p.bases[list];
  auto member = [&](int i) { return load_member(p, first, i < size ? keys[i] : 0); };
  if (thread < kChunk) s.members[thread] = member(own * kChunk + thread);
  __syncthreads();
  if (better > own) return;
  const Member mine[2] = {member(better * kChunk + lane), member(better * kChunk + lane + 32)};
  uint64_t* words = tile_words(p, image, tile) + better * kChunk;
  const int begin = warp % 2 * 32, end = min(begin + 32, size - own * kChunk);
  for (int i = begin; i < end; i++) {
    const Member other = s.members[i];
    unsigned bits[2];
#pragma unroll
    for (int h = 0; h < 2; h++)
      bits[h] = __ballot_sync(
          ~0u, (better < own || lane + 32 * h < i) && other.cls == mine[h].cls && overlaps(p, mine[h].box, other.box));
    if (lane == 0) words[i] = bits[0] | static_cast<uint64_t>(bits[1]) << 32;
  }
}

}  // namespace
}  // namespace htc::cuda
