// The best keys of many, a batch at a time, by one block: histograms find a bound that few enough keys reach, those few
// are sorted in shared memory. Keys are unique and never 0.
#pragma once
#include "cuda/launch.cuh"

namespace htc::cuda {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kBatch = 2048;  // keys sorted at a time
constexpr int kDigits = 2048, kDigitBits = 11;
constexpr int kMaxGroups = 128;
static_assert(kDigits == kThreads * 4);

struct SelectShared {
  uint64_t keys[kBatch];  // the batch, best first
  int histogram[kDigits];
  int warp_sums[kWarps];
  int included, taken, filled;
};

// Larger for a better score, and for the lower index of two equal ones.
__device__ __forceinline__ uint64_t sort_key(float score, uint32_t index) {
  const uint32_t bits = __float_as_uint(score + 0.0f);  // -0 and 0 tie
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | (~index & 0xffffffffu);
}
__device__ __forceinline__ int64_t index_of(uint64_t key) {
  return static_cast<int64_t>(~static_cast<uint32_t>(key) & 0xffffffffu);
}

__device__ __forceinline__ float score_of(uint64_t key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

// From the highest digit down: how many digits hold kBatch keys at most together (s.included), and how many (s.taken).
__device__ __forceinline__ void include_digits(SelectShared& s) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  int sums[4], total = 0;
#pragma unroll
  for (int j = 0; j < 4; j++) sums[j] = total += s.histogram[kDigits - 1 - (4 * thread + j)];
  int scan = total;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int before = __shfl_up_sync(~0u, scan, step);
    if (lane >= step) scan += before;
  }
  if (lane == 31) s.warp_sums[warp] = scan;
  __syncthreads();
  int before = scan - total;
  for (int w = 0; w < warp; w++) before += s.warp_sums[w];
  int included = 0, taken = 0;
#pragma unroll
  for (int j = 0; j < 4; j++)
    if (before + sums[j] <= kBatch) {
      included++;
      taken = before + sums[j];
    }
  if (included > 0) {
    atomicAdd(&s.included, included);
    atomicMax(&s.taken, taken);
  }
  __syncthreads();
}

// A bound that between 1 and kBatch of the keys below `upper` reach; 0 where that is all of them, or there are none.
template <class ForEach>
__device__ __forceinline__ uint64_t find_bound(SelectShared& s, ForEach for_each, uint64_t upper) {
  uint64_t base = 0;
  int shift = 64 - kDigitBits, width = 64;
  while (true) {
    for (int i = static_cast<int>(threadIdx.x); i < kDigits; i += kThreads) s.histogram[i] = 0;
    if (threadIdx.x == 0) s.included = s.taken = 0;
    __syncthreads();
    for_each([&](uint64_t key) {
      const bool inside = width == 64 || key >> width == base >> width;
      if (key < upper && inside) atomicAdd(&s.histogram[key >> shift & ((1u << (width - shift)) - 1)], 1);
    });
    __syncthreads();
    include_digits(s);
    const int included = s.included, taken = s.taken;
    __syncthreads();
    if (included == kDigits) return base;
    const auto digit = static_cast<uint64_t>(kDigits - included);
    if (taken > 0) return base + (digit << shift);
    // The best digit alone is too many: look into it.
    base += (digit - 1) << shift;
    width = shift;
    shift = max(shift - kDigitBits, 0);
  }
}

// Steps `step`, half of it, ... 1 of one run of a bitonic sort, by a warp, of the 64 keys from `first` on: two a lane.
__device__ __forceinline__ void exchange_in_warp(uint64_t (&own)[2], int first, int run, int step) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (step == 32) {
    const uint64_t low = min(own[0], own[1]), high = max(own[0], own[1]);
    const bool down = ((first + lane) & run) == 0;
    own[0] = down ? high : low;
    own[1] = down ? low : high;
    step = 16;
  }
  for (; step > 0; step /= 2) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const uint64_t other = __shfl_xor_sync(~0u, own[h], step);
      const bool down = ((first + lane + 32 * h) & run) == 0, lower = (lane & step) == 0;
      own[h] = (own[h] > other) == (down == lower) ? own[h] : other;
    }
  }
}

// Runs first_run to last_run of the sort, as far as they stay among 64 keys: without barriers.
__device__ __forceinline__ void sort_in_warps(uint64_t* keys, int size, int first_run, int last_run) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  for (int first = 64 * warp; first < size; first += 64 * kWarps) {
    uint64_t own[2] = {keys[first + lane], keys[first + lane + 32]};
    for (int run = first_run; run <= last_run; run *= 2) exchange_in_warp(own, first, run, min(run / 2, 32));
    keys[first + lane] = own[0];
    keys[first + lane + 32] = own[1];
  }
}

__device__ __forceinline__ void sort_batch(SelectShared& s, int count) {
  int size = 64;
  while (size < count) size *= 2;
  for (int i = count + static_cast<int>(threadIdx.x); i < size; i += kThreads) s.keys[i] = 0;
  __syncthreads();
  sort_in_warps(s.keys, size, 2, 64);
  __syncthreads();
  for (int run = 128; run <= size; run *= 2) {
    for (int step = run / 2; step >= 64; step /= 2) {
      for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += kThreads) {
        const int low = 2 * i - (i & (step - 1)), high = low + step;
        const uint64_t a = s.keys[low], b = s.keys[high];
        if ((a < b) == ((low & run) == 0)) {
          s.keys[low] = b;
          s.keys[high] = a;
        }
      }
      __syncthreads();
    }
    sort_in_warps(s.keys, size, run, run);
    __syncthreads();
  }
}

// The best of the keys below `upper`, sorted in s.keys; returns how many, and lowers `upper` to where the next batch
// begins (0: there is none). for_each(visit) visits every key once, spread over the block's threads.
template <class ForEach>
__device__ __forceinline__ int next_batch(SelectShared& s, ForEach for_each, uint64_t& upper) {
  const uint64_t bound = find_bound(s, for_each, upper);
  if (threadIdx.x == 0) s.filled = 0;
  __syncthreads();
  for_each([&](uint64_t key) {
    if (key < upper && key >= bound) s.keys[atomicAdd(&s.filled, 1)] = key;
  });
  __syncthreads();
  const int count = s.filled;
  sort_batch(s, count);
  upper = bound;
  return count;
}

}  // namespace htc::cuda
