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
constexpr int kLoads = 8;         // rows of scores of a warp that are on their way at a time
constexpr int kWindow = 512;      // boxes moved at a time
constexpr int kRemembered = 256;  // kept ones in shared memory; those behind them are read from the results
static_assert(kWindow == kThreads);

struct DetectionShared {
  SelectShared select;
  Box boxes[kWindow], kept_boxes[kRemembered];
  int classes[kWindow], kept_classes[kRemembered];
  uint64_t earlier[2][kChunk];  // of a chunk and the next one: its better boxes that overlap this one
  unsigned gone[2];             // bits: suppressed by what was kept before
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

  // Calls visit(some, column, four) for scores of rows that have one of at least `least`: four[j] are row some[j]'s
  // from `column` on, zeros where there is no row. A warp takes every kWarps-th row; several of them are on their way
  // at a time.
  template <class Visit>
  __device__ __forceinline__ void visit_rows(uint32_t least, Visit visit) const {
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
            four[j] = some[j] < 0 ? uint4{0, 0, 0, 0}
                                  : *reinterpret_cast<const uint4*>(scores + int64_t{some[j]} * stride + column);
          visit(some, column, four);
        }
      }
    }
  }

  // Calls visit(key) for every candidate, spread over the block's threads.
  template <class Visit>
  __device__ __forceinline__ void operator()(Visit visit) const {
    visit_rows(1, [&](const int (&some)[kLoads], int column, const uint4(&four)[kLoads]) {
#pragma unroll
      for (int j = 0; j < kLoads; j++) {
        const uint32_t each[4] = {four[j].x, four[j].y, four[j].z, four[j].w};
#pragma unroll
        for (int k = 0; k < 4; k++)
          if (each[k] != 0) visit(key_of(some[j], column + k, each[k]));
      }
    });
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

// Of how many scores one goes into a sample.
__device__ __forceinline__ int sample_step(const Scores& list) {
  const int64_t all = static_cast<int64_t>(list.rows) * list.stride;
  return static_cast<int>(ceil_div<int64_t>(all, all > int64_t{kBatch / 2} * (kWanted / 4) ? kBatch : kBatch / 2));
}

// Scores from places spread over the list, one of each `step` (not every step-th: that might be always the same class);
// returns how many.
__device__ __forceinline__ int fill_sample(SelectShared& s, const Scores& list, uint64_t upper) {
  const auto step = static_cast<uint32_t>(sample_step(list));
  const auto samples = static_cast<int>(static_cast<int64_t>(list.rows) * list.stride / step);
  for (int i = static_cast<int>(threadIdx.x); i < samples; i += kThreads) {
    const auto place = static_cast<uint32_t>(i) * step + (static_cast<uint32_t>(i) * 2654435769u >> 12) % step;
    const auto row = static_cast<int>(place / static_cast<uint32_t>(list.stride));
    const uint32_t score = list.scores[place];
    const uint64_t key = list.key_of(row, static_cast<int>(place) - row * list.stride, score);
    s.keys[i] = score != 0 && key < upper ? key : 0;
  }
  __syncthreads();
  return samples;
}

// The keys below `upper` that reach the bound, as far as there is room; returns how many there are. A lane asks once
// for room for all that its loads brought.
__device__ __forceinline__ int collect_keys(SelectShared& s, const Scores& list, uint64_t bound, uint64_t upper) {
  const uint32_t least = max(static_cast<uint32_t>(bound >> 32), 1u), most = static_cast<uint32_t>(upper >> 32);
  if (threadIdx.x == 0) s.filled = 0;
  __syncthreads();
  list.visit_rows(least, [&](const int (&some)[kLoads], int column, const uint4(&four)[kLoads]) {
    uint32_t hits = 0, edges = 0;
    auto each = [&](auto visit) {
#pragma unroll
      for (int j = 0; j < kLoads; j++) {
        const uint32_t scores[4] = {four[j].x, four[j].y, four[j].z, four[j].w};
#pragma unroll
        for (int k = 0; k < 4; k++) visit(4 * j + k, some[j], column + k, scores[k]);
      }
    };
    each([&](int bit, int, int, uint32_t score) {
      hits |= static_cast<uint32_t>((score >= least) & (score <= most)) << bit;
      edges |= static_cast<uint32_t>((score == least) | (score == most)) << bit;
    });
    if (hits == 0) return;
    // Scores at either end are in or out by their index.
    if (edges != 0)
      each([&](int bit, int row, int at, uint32_t score) {
        if (!(edges >> bit & 1)) return;
        const uint64_t key = list.key_of(row, at, score);
        if (key < bound || key >= upper) hits &= ~(1u << bit);
      });
    int place = atomicAdd(&s.filled, __popc(hits));
    each([&](int bit, int row, int at, uint32_t score) {
      if (hits >> bit & 1 && place++ < kBatch) s.keys[place - 1] = list.key_of(row, at, score);
    });
  });
  __syncthreads();
  const int filled = s.filled;
  __syncthreads();
  return filled;
}

// Those that reach the first bound, or else the second, or else as many as there is room for; lowers `upper`.
__device__ __forceinline__ int fill_from(SelectShared& s, const Scores& list, const uint64_t (&bounds)[2],
                                         uint64_t& upper) {
#pragma unroll 1
  for (int i = 0; i < 2; i++) {
    const uint64_t bound = i == 0 ? bounds[0] : bounds[1];
    const int size = collect_keys(s, list, bound, upper);
    if (size > kBatch) continue;
    upper = bound == 1 ? 0 : bound;
    return size;
  }
  return fill_batch(s, list, upper);
}

// As next_batch, whose histograms are slow where all scores are alike: a bound that about kWanted keys reach is read
// off a sorted sample. What comes out at last does not depend on where batches end.
// A sample and a batch are sorted by the same instructions: they come from memory once.
__device__ __forceinline__ int sampled_batch(SelectShared& s, const Scores& list, int found, uint64_t& upper) {
  uint64_t bounds[2] = {1, 1};
  bool sampling = found > kBatch;
#pragma unroll 1
  while (true) {
    const int size = sampling ? fill_sample(s, list, upper) : fill_from(s, list, bounds, upper);
    sort_batch(s, size);
    if (!sampling) return size;
    sampling = false;
    // About how many of the sample are as good as kWanted of all.
    const int rank = min(max(kWanted / sample_step(list), 1), size);
    bounds[0] = max(s.keys[rank - 1], uint64_t{1});
    bounds[1] = max(s.keys[max(rank / 4, 1) - 1], uint64_t{1});
  }
}

}  // namespace
}  // namespace htc::cuda
