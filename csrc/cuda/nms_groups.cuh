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
constexpr int kChunk = 64;                  // boxes decided together
constexpr int64_t kFewWanted = 2 * kChunk;  // for so many, a walk soon ends
constexpr int kRadixTile = 2048;            // keys of a block of a radix sort
constexpr int kRadixDigits = 256, kScorePasses = 4;
constexpr int kTickets = kScorePasses + 2;  // per image: of nms_chain, of the passes by score and by group
constexpr int64_t kCounted = 16384;         // per image; of more, places are found by a radix sort

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
  size_t cleared;  // bytes from `sizes` on that are zero at the start
  // What nms_chain.cuh needs where many are wanted; else tiles is 0. The kept boxes, classes and keys are then all of a
  // group's, best first.
  int64_t tiles;         // per image: as many as there can be
  int32_t* tickets;      // per image: kTickets
  uint64_t* states;      // per (image, tile): 2
  int32_t* kept_before;  // per (image, tile): how many the group's tiles before it kept
  // What nms_radix.cuh needs where there are many boxes; else blocks is 0.
  int64_t blocks;    // per image: of kRadixTile boxes
  int32_t* digits;   // per (image, pass by score): how many keys have each
  uint32_t* told;    // per (pass, image, block): how many keys have each digit, and one
  uint32_t* ranks;   // per box: its place among the image's scores
  uint8_t* flags;    // per place among the scores: kept
  int32_t* kept_in;  // per (image, block): of its places
};

struct GroupCounts {
  int32_t of[kMaxGroups];
};

__device__ __forceinline__ Box load_box(const void* address) {
  const float4 b = *static_cast<const float4*>(address);
  return {b.x, b.y, b.z, b.w};
}

// The group of a box, or kNoGroup where it can never be kept.
__device__ __forceinline__ uint8_t group_of_box(const NmsParams& p, int64_t at, float score) {
  const bool wanted = score == score && (!p.has_score_threshold || score > p.score_threshold);
  if (!wanted || !is_finite(load_box(p.boxes + 4 * at))) return kNoGroup;
  return static_cast<uint8_t>(p.classes == nullptr ? 0 : static_cast<uint64_t>(p.classes[at]) % p.groups);
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
    const uint8_t group = group_of_box(p, at, score);
    if (group != kNoGroup) atomicAdd(&counts.of[group], 1);
    p.keys[at] = sort_key(score, static_cast<uint32_t>(i));
    p.group_of[image * p.padded + i] = group;
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

#if defined(__CUDACC__)
inline int64_t counted_boxes() { return kCounted; }
#else  // few, so that small cases reach both ways; not where launches are only counted
inline int64_t counted_boxes() { return simt::counting ? kCounted : 700; }
#endif

NmsParams nms_params(const BatchedNms& op, char* memory, int64_t& bytes, bool hard) {
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
  const bool many = hard && std::min(op.max_output, op.count) > kFewWanted;
  p.tiles = many ? ceil_div<int64_t>(op.count, kChunk) + p.groups : 0;
  p.blocks = many && op.count > counted_boxes() ? ceil_div<int64_t>(op.count, kRadixTile) : 0;
  p.indices = op.indices;
  p.counts = op.counts;
  Pieces pieces{memory};
  const int64_t all = op.images * op.count, lists = op.images * p.groups;
  pieces.take(p.kept_boxes, all);
  pieces.take(p.kept_classes, all);
  pieces.take(p.keys, all);
  pieces.take(p.kept_keys, all);
  pieces.take(p.group_of, op.images * p.padded);
  pieces.take(p.ranks, p.blocks > 0 ? all : 0);
  pieces.take(p.kept_before, op.images * p.tiles);
  pieces.take(p.kept, lists);
  const int64_t begin = pieces.used;
  pieces.take(p.sizes, lists);
  pieces.take(p.tickets, p.tiles > 0 ? op.images * kTickets : 0);
  pieces.take(p.states, op.images * p.tiles * 2);
  pieces.take(p.digits, p.blocks > 0 ? op.images * kScorePasses * kRadixDigits : 0);
  pieces.take(p.told, op.images * p.blocks * (kScorePasses + 1) * kRadixDigits);
  pieces.take(p.flags, p.blocks > 0 ? op.images * p.padded : 0);
  pieces.take(p.kept_in, op.images * p.blocks);
  p.cleared = static_cast<size_t>(pieces.used - begin);
  bytes = pieces.used;
  return p;
}

inline void launch_keys(const NmsParams& p, Stream stream) {
  fill_zero(p.sizes, p.cleared, stream);
  // Images go along x: along y a grid ends at 65535.
  const int64_t blocks = ceil_div<int64_t>(p.padded, kThreads) * p.images;
  launch("nms_keys", nms_keys, static_cast<unsigned>(blocks), kThreads, 0, stream, p);
}

}  // namespace
}  // namespace htc::cuda
