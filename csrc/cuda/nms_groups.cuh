// What hard and soft NMS share. Classes go to groups; a group of an image is one block's.
//   nms_keys   which boxes are candidates, as keys that sort by score and then by index; sizes of the groups
//   nms_merge  per image: the best of what all groups kept
#pragma once
#include <algorithm>
#include <cmath>

#include "cuda/nms_select.cuh"
#include "geometry.h"

namespace htc::cuda {
namespace {

constexpr uint8_t kNoGroup = 255;
constexpr int kChunk = 64;                                     // boxes decided together
constexpr int kWordTiles = kBatch / kChunk;                    // words of 64 bits that a box of a batch may need
constexpr int64_t kMatrixBoxes = 16384, kMatrixTiles = 16384;  // per image, of all; beyond, words fill the memory
constexpr int64_t kMatrixWanted = 2 * kChunk;                  // for fewer, a walk soon ends

struct NmsParams {
  int images, groups;
  int64_t count, padded;  // boxes per image; the same rounded up to 16
  const float* boxes;
  const float* scores;
  const int64_t* classes;  // or nothing
  float threshold, bound;  // IoU > threshold is sure not to be where shared <= union * bound
  bool has_score_threshold;
  float score_threshold;
  int64_t max_output;
  int64_t* indices;
  int32_t* counts;
  float* decayed;  // or nothing: where the scores in the keys go
  // Workspace: per box, and per (image, group).
  Box* kept_boxes;
  int64_t* kept_classes;
  uint64_t* keys;
  uint64_t* kept_keys;
  uint8_t* group_of;
  int32_t* sizes;
  int32_t* kept;
  // What nms_matrix.cuh adds; without it tiles is 0.
  int64_t tiles;         // per image: of 64 boxes, group after group
  int32_t* tile_groups;  // per (image, tile): the group and one, or 0
  int32_t* first_tiles;  // per (image, group)
  int64_t* bases;        // per (image, group): where its boxes are kept
  uint64_t* uppers;      // per (image, group): as next_batch leaves it
  uint64_t* words;       // per (image, tile): [kWordTiles][kChunk]
};

struct GroupCounts {
  int32_t of[kMaxGroups];
};

__device__ __forceinline__ Box load_box(const void* address) {
  const float4 b = *static_cast<const float4*>(address);
  return {b.x, b.y, b.z, b.w};
}

__global__ void __launch_bounds__(kThreads) nms_keys(const __grid_constant__ NmsParams p) {
  HTC_SHARED(GroupCounts, counts);
  for (int g = static_cast<int>(threadIdx.x); g < p.groups; g += kThreads) counts.of[g] = 0;
  __syncthreads();
  const int64_t blocks = ceil_div<int64_t>(p.padded, kThreads);  // per image
  const int image = static_cast<int>(blockIdx.x / blocks);
  const int64_t i = (blockIdx.x - image * blocks) * kThreads + threadIdx.x, at = image * p.count + i;
  if (i < p.count) {
    const float score = p.scores[at];
    const Box box = load_box(p.boxes + 4 * at);
    const bool wanted = score == score && (!p.has_score_threshold || score > p.score_threshold);
    int group = kNoGroup;
    if (wanted && is_finite(box)) {
      group = p.classes == nullptr ? 0 : static_cast<int>(static_cast<uint64_t>(p.classes[at]) % p.groups);
      atomicAdd(&counts.of[group], 1);
    }
    p.keys[at] = sort_key(score, static_cast<uint32_t>(i));
    p.group_of[image * p.padded + i] = static_cast<uint8_t>(group);
  } else if (i < p.padded) {
    p.group_of[image * p.padded + i] = kNoGroup;
  }
  __syncthreads();
  for (int g = static_cast<int>(threadIdx.x); g < p.groups; g += kThreads)
    if (counts.of[g] > 0) atomicAdd(&p.sizes[image * p.groups + g], counts.of[g]);
}

// Where the group's kept ones begin: behind the candidates of the groups before it.
__device__ __forceinline__ int group_offset(const NmsParams& p, int image, int group, int& shared_sum) {
  if (threadIdx.x == 0) shared_sum = 0;
  __syncthreads();
  for (int g = static_cast<int>(threadIdx.x); g < group; g += kThreads)
    atomicAdd(&shared_sum, p.sizes[image * p.groups + g]);
  __syncthreads();
  return shared_sum;
}

struct MergeShared {
  SelectShared select;
  int32_t offsets[kMaxGroups];
};

__global__ void __launch_bounds__(kThreads) nms_merge(const __grid_constant__ NmsParams p) {
  HTC_SHARED(MergeShared, s);
  const int image = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int32_t* sizes = p.sizes + image * p.groups;
  const int32_t* kept = p.kept + image * p.groups;
  if (thread < p.groups) s.offsets[thread] = sizes[thread];
  __syncthreads();
  for (int step = 1; step < p.groups; step *= 2) {
    const int before = thread >= step && thread < p.groups ? s.offsets[thread - step] : 0;
    __syncthreads();
    if (thread < p.groups) s.offsets[thread] += before;
    __syncthreads();
  }
  auto survivors = [&](auto visit) {
    for (int g = thread / 32; g < p.groups; g += kWarps) {
      const uint64_t* keys = p.kept_keys + image * p.count + s.offsets[g] - sizes[g];
      for (int i = thread % 32; i < kept[g]; i += 32) visit(keys[i]);
    }
  };
  int64_t* out = p.indices + image * p.max_output;
  int64_t written = 0;
  uint64_t upper = ~uint64_t{0};
  while (written < p.max_output && upper != 0) {
    const int size =
        static_cast<int>(min(static_cast<int64_t>(next_batch(s.select, survivors, upper)), p.max_output - written));
    for (int i = thread; i < size; i += kThreads) {
      out[written + i] = index_of(s.select.keys[i]);
      if (p.decayed != nullptr) p.decayed[image * p.max_output + written + i] = score_of(s.select.keys[i]);
    }
    written += size;
    __syncthreads();
  }
  for (int64_t i = written + thread; i < p.max_output; i += kThreads) {
    out[i] = -1;
    if (p.decayed != nullptr) p.decayed[image * p.max_output + i] = 0.0f;
  }
  if (thread == 0) p.counts[image] = static_cast<int32_t>(written);
}

// Hands out the workspace piece by piece, each on a 16-byte boundary; with no memory it only adds up.
struct Pieces {
  char* memory;
  int64_t used = 0;

  template <class T>
  void take(T*& pointer, int64_t count) {
    pointer = reinterpret_cast<T*>(memory + used);
    used += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
  }
};

NmsParams nms_params(const BatchedNms& op, char* memory, int64_t& bytes, bool matrix) {
  NmsParams p{};
  p.images = static_cast<int>(op.images);
  p.groups = 1;
  while (op.classes != nullptr && p.groups < kMaxGroups && p.groups * 8 < op.count) p.groups *= 2;
  p.count = op.count;
  p.padded = (op.count + 15) / 16 * 16;
  p.boxes = op.boxes;
  p.scores = op.scores;
  p.classes = op.classes;
  p.threshold = static_cast<float>(op.iou_threshold);
  if (p.threshold > op.iou_threshold) p.threshold = std::nextafter(p.threshold, -INFINITY);
  p.bound = p.threshold * (1.0f - 1e-5f);
  p.has_score_threshold = op.has_score_threshold;
  p.score_threshold = op.score_threshold;
  p.max_output = op.max_output;
  const int64_t tiles = ceil_div<int64_t>(op.count, kChunk) + p.groups;
  const bool small = op.count <= kMatrixBoxes && op.images * tiles <= kMatrixTiles;
  p.tiles = matrix && small && std::min(op.max_output, op.count) > kMatrixWanted ? tiles : 0;
  p.indices = op.indices;
  p.counts = op.counts;
  Pieces pieces{memory};
  const int64_t all = op.images * op.count, lists = op.images * p.groups;
  pieces.take(p.kept_boxes, all);
  pieces.take(p.kept_classes, all);
  pieces.take(p.keys, all);
  pieces.take(p.kept_keys, all);
  pieces.take(p.group_of, op.images * p.padded);
  pieces.take(p.sizes, lists);
  pieces.take(p.tile_groups, op.images * p.tiles);  // cleared together with the sizes
  pieces.take(p.kept, lists);
  pieces.take(p.first_tiles, p.tiles > 0 ? lists : 0);
  pieces.take(p.bases, p.tiles > 0 ? lists : 0);
  pieces.take(p.uppers, p.tiles > 0 ? lists : 0);
  pieces.take(p.words, op.images * p.tiles * kWordTiles * kChunk);
  bytes = pieces.used;
  return p;
}

inline void launch_keys(const NmsParams& p, Stream stream) {
  const char* end = reinterpret_cast<const char*>(p.tile_groups + p.images * p.tiles);
  fill_zero(p.sizes, static_cast<size_t>(end - reinterpret_cast<const char*>(p.sizes)), stream);
  // Images go along x: along y a grid ends at 65535.
  const int64_t blocks = ceil_div<int64_t>(p.padded, kThreads) * p.images;
  launch("nms_keys", nms_keys, static_cast<unsigned>(blocks), kThreads, 0, stream, p);
}

}  // namespace
}  // namespace htc::cuda
