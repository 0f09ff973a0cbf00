// The candidates of a level, best first, with their boxes, once those that may be among them are listed.
#pragma once
#include "cuda/half.cuh"
#include "cuda/nms_groups.cuh"
#include "geometry.h"

namespace htc::cuda {
namespace {

constexpr int kMostTiles = 32;  // of a level, for propose_nms.cuh
constexpr int kOwn = 64;        // keys that a block places at a time
#if defined(__CUDACC__)
constexpr int kCountedKeys = 4 * kBatch;  // in a list; of more, places are found batch by batch
#else                                     // so that small cases reach both ways
constexpr int kCountedKeys = kBatch + kBatch / 8;
#endif

// What of an image belongs to a level.
struct Share {
  int64_t first_key;
  int size, wanted;  // h * w * A, and how many of them go on
  int first_candidate, first_block;
  int first_tile, first_pair;  // of 64 candidates, and of a tile with one that is not behind it
};

struct ProposeParams {
  Propose op;
  Share share[kProposalLevels];
  int blocks, candidates;  // per image
  int64_t keys_per_image;
  // Workspace.
  int32_t* histograms;  // [N, L, kDigits]
  int32_t* found;       // [N, L]
  uint64_t* keys;       // [N, keys_per_image]: of a level's place the first `found` are in use
  Box* boxes;           // [N, candidates], level after level, best first
  float* logits;
  // Where batched_nms goes on: no tiles then.
  int64_t* levels;   // of the candidates
  int64_t* indices;  // [N, limit]: which candidates NMS chose
  int32_t* counts;
  // Where propose_nms.cuh goes on.
  int tiles, pairs;      // per image
  NmsParams nms;         // threshold and bound
  uint64_t* overlaps;    // [N, pairs, 64]: bits
  uint64_t* stays;       // [N, tiles]: bits
  int32_t* kept_before;  // [N, tiles]: in the level
};
static_assert(sizeof(ProposeParams) <= 4096);  // what every GPU takes as a kernel's arguments

struct Cell {
  int y, x, anchor;
};
__device__ __forceinline__ Cell cell_of(const ProposalLevel& l, int index) {
  const int anchors = static_cast<int>(l.anchors), width = static_cast<int>(l.objectness.width);
  const int cell = index / anchors, y = cell / width;
  return {y, cell - y * width, index - cell * anchors};
}

template <class T>
__device__ __forceinline__ Box box_of(const Propose& op, const ProposalLevel& l, int image, int index) {
  const Cell c = cell_of(l, index);
  const FeatureMap& map = l.deltas;
  const T* deltas = static_cast<const T*>(map.data) + image * map.stride_n + 4 * c.anchor * map.stride_c +
                    c.y * map.stride_h + c.x * map.stride_w;
  float moves[4], sides[2];
#pragma unroll
  for (int j = 0; j < 4; j++) moves[j] = to_float(deltas[j * map.stride_c]) * op.delta_std[j];
#pragma unroll
  for (int j = 0; j < 2; j++)
    sides[j] = op.whole_sizes ? static_cast<float>(static_cast<const int64_t*>(op.image_sizes)[2 * image + j])
                              : static_cast<const float*>(op.image_sizes)[2 * image + j];
  return proposal_box(op.anchors[l.first_anchor + c.anchor], static_cast<float>(c.x) * l.across,
                      static_cast<float>(c.y) * l.down, moves, sides[0], sides[1], op.min_size);
}

// One of the candidates, at its place. Where there is no box it is not finite: NMS leaves it out.
template <class T>
__device__ __forceinline__ void write_candidate(const ProposeParams& p, int image, int level, int place, uint64_t key) {
  const int64_t at = static_cast<int64_t>(image) * p.candidates + p.share[level].first_candidate + place;
  p.boxes[at] = box_of<T>(p.op, p.op.level[level], image, static_cast<int>(index_of(key)));
  p.logits[at] = score_of(key);
  if (p.tiles == 0) p.levels[at] = level;
}

struct SortShared {
  SelectShared select;
  int places[kOwn];
};

// How many of the keys are above the own one, among those that this thread looks at; all meet at barriers.
__device__ __forceinline__ int count_better(SortShared& s, const uint64_t* keys, int found, uint64_t own) {
  constexpr int kParts = kThreads / kOwn;  // threads that count for one key
  const int thread = static_cast<int>(threadIdx.x);
  int better = 0;
  for (int begin = 0; begin < found; begin += kBatch) {
    const int size = min(kBatch, found - begin), padded = ceil_div(size, 2 * kParts) * 2 * kParts;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kBatch / kThreads; j++) {
      const int i = thread + j * kThreads;
      if (i < padded) s.select.keys[i] = i < size ? keys[begin + i] : 0;
    }
    __syncthreads();
    const ulonglong2* pairs = reinterpret_cast<const ulonglong2*>(s.select.keys);
#pragma unroll 8
    for (int i = thread / kOwn; i < padded / 2; i += kParts) {
      const ulonglong2 pair = pairs[i];
      better += (pair.x > own) + (pair.y > own);
    }
  }
  return better;
}

// A key's place is how many are better: counted by several blocks, kOwn keys each.
template <class T>
__device__ __forceinline__ void place_by_count(const ProposeParams& p, SortShared& s, int image, int level,
                                               const uint64_t* keys, int found) {
  const int thread = static_cast<int>(threadIdx.x), mine = thread % kOwn;
  for (int begin = kOwn * static_cast<int>(blockIdx.z); begin < found; begin += kOwn * static_cast<int>(gridDim.z)) {
    const uint64_t own = begin + mine < found ? keys[begin + mine] : ~uint64_t{0};
    if (thread < kOwn) s.places[thread] = 0;
    const int better = count_better(s, keys, found, own);
    if (better > 0) atomicAdd(&s.places[mine], better);
    __syncthreads();
    if (thread < kOwn && begin + mine < found && s.places[mine] < p.share[level].wanted)
      write_candidate<T>(p, image, level, s.places[mine], own);
  }
}

// Of far more than are wanted, as where many logits are equal: by one block, a batch at a time.
template <class T>
__device__ __forceinline__ void place_by_batch(const ProposeParams& p, SelectShared& s, int image, int level,
                                               const uint64_t* keys, int found) {
  const int thread = static_cast<int>(threadIdx.x), wanted = p.share[level].wanted;
  auto visit_keys = [&](auto visit) {
    for (int i = thread; i < found; i += kThreads) visit(keys[i]);
  };
  uint64_t upper = ~uint64_t{0};
  for (int written = 0; written < wanted && upper != 0;) {
    const int size = min(next_batch(s, visit_keys, upper), wanted - written);
    for (int i = thread; i < size; i += kThreads) write_candidate<T>(p, image, level, written + i, s.keys[i]);
    written += size;
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) propose_sort(const __grid_constant__ ProposeParams p) {
  HTC_SHARED(SortShared, s);
  const int image = static_cast<int>(blockIdx.x), level = static_cast<int>(blockIdx.y);
  const int found = p.found[image * p.op.levels + level], wanted = p.share[level].wanted;
  const uint64_t* keys = p.keys + image * p.keys_per_image + p.share[level].first_key;
  if (found <= kCountedKeys) place_by_count<T>(p, s, image, level, keys, found);
  else if (blockIdx.z == 0) place_by_batch<T>(p, s.select, image, level, keys, found);
  if (blockIdx.z > 0) return;
  const int64_t first = static_cast<int64_t>(image) * p.candidates + p.share[level].first_candidate;
  for (int i = found + static_cast<int>(threadIdx.x); i < wanted; i += kThreads) {
    p.boxes[first + i] = Box{NAN, NAN, NAN, NAN};
    p.logits[first + i] = -INFINITY;
    if (p.tiles == 0) p.levels[first + i] = level;
  }
}

}  // namespace
}  // namespace htc::cuda
