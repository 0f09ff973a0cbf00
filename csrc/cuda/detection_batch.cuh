// What detection_scores leaves behind, and the best of it, a sorted batch at a time, by one block.
// Scores lie row by row, as integers that sort like them; 0: no candidate. Each row's best one and their number stand
// beside them, so that rows without a chance are not read.
#pragma once
#include "cuda/nms_overlap.cuh"
#include "cuda/nms_select.cuh"
#include "cuda/rows.cuh"

namespace htc::cuda {
namespace {

constexpr int kWanted = 900;      // keys sorted at a time, if they are many: some hundred are usually looked at
constexpr int kWindow = 512;      // boxes moved at a time
constexpr int kRemembered = 256;  // kept ones in shared memory; those behind them are read from the results
static_assert(kWindow == kThreads);

struct DetectionShared {
  SelectShared select;
  Box boxes[kWindow], kept_boxes[kRemembered];
  int classes[kWindow], kept_classes[kRemembered];
  uint64_t earlier[kChunk];  // the chunk's better boxes that overlap this one
  unsigned gone[2];          // bits: suppressed by what was kept before
  int found, kept;
};

// Of one image.
struct Scores {
  const uint32_t* scores;  // [rows, stride]
  const uint64_t* best;    // [rows]: the best score above, how many candidates below
  int rows, classes, stride;

  __device__ __forceinline__ uint64_t key_of(int row, int column, uint32_t score) const {
    const auto index = static_cast<uint32_t>(row) * static_cast<uint32_t>(classes) + static_cast<uint32_t>(column);
    return static_cast<uint64_t>(score) << 32 | ~index;
  }

  // Calls visit(key) for every candidate of at least this score, spread over the block's threads. A warp takes every
  // kWarps-th row; several of them are on their way at a time.
  template <class Visit>
  __device__ __forceinline__ void visit_from(uint32_t least, Visit visit) const {
    constexpr int kLoads = 8;
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
    for (int first = warp; first < rows; first += 32 * kWarps) {
      const int own = first + lane * kWarps;
      unsigned open = __ballot_sync(~0u, own < rows && static_cast<uint32_t>(best[own] >> 32) >= least);
      while (open != 0) {
        int some[kLoads];
#pragma unroll
        for (int j = 0; j < kLoads; j++, open &= open - 1)
          some[j] = open != 0 ? first + (__ffs(static_cast<int>(open)) - 1) * kWarps : -1;
        for (int column = 4 * lane; column < stride; column += 128) {
          uint4 four[kLoads];
#pragma unroll
          for (int j = 0; j < kLoads; j++)
            four[j] = *reinterpret_cast<const uint4*>(scores + static_cast<int64_t>(max(some[j], 0)) * stride + column);
#pragma unroll
          for (int j = 0; j < kLoads; j++) {
            if (some[j] < 0 || max(max(four[j].x, four[j].y), max(four[j].z, four[j].w)) < least) continue;
            const uint32_t each[4] = {four[j].x, four[j].y, four[j].z, four[j].w};
#pragma unroll
            for (int k = 0; k < 4; k++)
              if (each[k] >= least) visit(key_of(some[j], column + k, each[k]));
          }
        }
      }
    }
  }

  template <class Visit>
  __device__ __forceinline__ void operator()(Visit visit) const {
    visit_from(1, visit);
  }
};

__device__ __forceinline__ int count_candidates(DetectionShared& s, const Scores& list) {
  if (threadIdx.x == 0) s.found = 0;
  __syncthreads();
  int mine = 0;
  for (int row = static_cast<int>(threadIdx.x); row < list.rows; row += kThreads)
    mine += static_cast<int>(static_cast<uint32_t>(list.best[row]));
  mine = __reduce_add_sync(~0u, mine);
  if (threadIdx.x % 32 == 0 && mine > 0) atomicAdd(&s.found, mine);
  __syncthreads();
  return s.found;
}

// Scores from places spread over the list, one of each `step` (not every step-th: that might be always the same class),
// sorted; returns about how many of them are as good as kWanted of all.
__device__ __forceinline__ int sort_sample(SelectShared& s, const Scores& list, uint64_t upper) {
  const int64_t all = static_cast<int64_t>(list.rows) * list.stride;
  const int most = all > int64_t{kBatch / 2} * (kWanted / 4) ? kBatch : kBatch / 2;
  const auto step = static_cast<uint32_t>(ceil_div<int64_t>(all, most));
  const auto samples = static_cast<int>(all / step);
  for (int i = static_cast<int>(threadIdx.x); i < samples; i += kThreads) {
    const auto place = static_cast<uint32_t>(i) * step + (static_cast<uint32_t>(i) * 2654435769u >> 12) % step;
    const auto row = static_cast<int>(place / static_cast<uint32_t>(list.stride));
    const uint32_t score = list.scores[place];
    const uint64_t key = list.key_of(row, static_cast<int>(place) - row * list.stride, score);
    s.keys[i] = score != 0 && key < upper ? key : 0;
  }
  __syncthreads();
  sort_batch(s, samples);
  return min(max(static_cast<int>(kWanted / step), 1), samples);
}

// The keys below `upper` that reach the bound, as far as there is room; returns how many there are.
__device__ __forceinline__ int collect_keys(SelectShared& s, const Scores& list, uint64_t bound, uint64_t upper) {
  if (threadIdx.x == 0) s.filled = 0;
  __syncthreads();
  list.visit_from(max(static_cast<uint32_t>(bound >> 32), 1u), [&](uint64_t key) {
    if (key >= upper || key < bound) return;
    const int at = atomicAdd(&s.filled, 1);
    if (at < kBatch) s.keys[at] = key;
  });
  __syncthreads();
  const int filled = s.filled;
  __syncthreads();
  return filled;
}

// As next_batch, whose histograms are slow where all scores are alike: a bound that about kWanted keys reach is read
// off a sorted sample. What comes out at last does not depend on where batches end.
__device__ __forceinline__ int sampled_batch(SelectShared& s, const Scores& list, int found, uint64_t& upper) {
  uint64_t bounds[2] = {1, 1};
  if (found > kBatch) {
    const int rank = sort_sample(s, list, upper);
    bounds[0] = max(s.keys[rank - 1], uint64_t{1});
    bounds[1] = max(s.keys[max(rank / 4, 1) - 1], uint64_t{1});
  }
  for (int i = 0; i < 2; i++) {
    const uint64_t bound = i == 0 ? bounds[0] : bounds[1];
    const int size = collect_keys(s, list, bound, upper);
    if (size > kBatch) continue;
    sort_batch(s, size);
    upper = bound == 1 ? 0 : bound;
    return size;
  }
  return next_batch(s, list, upper);
}

}  // namespace
}  // namespace htc::cuda
