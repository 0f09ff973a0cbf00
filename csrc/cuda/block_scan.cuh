// Sums over the threads of a block, in thread order: where each one's share begins, and how much there is in all.
#pragma once
#include "cuda/launch.cuh"

namespace htc::cuda {

template <class Int>
struct ScanShared {
  Int warps[32];
};

// The sum of the values of all threads before this one, and of all.
template <class Int>
struct Prefix {
  Int before, total;
};

// before: what the threads of the warp before this one have; one of its threads, the teller, knows what all have.
template <class Int>
__device__ __forceinline__ Prefix<Int> across_warps(ScanShared<Int>& shared, Int before, bool teller, Int all) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  if (teller) shared.warps[warp] = all;
  __syncthreads();
  Int total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x / 32); w++) {
    const Int sum = shared.warps[w];
    if (w < warp) before += sum;
    total += sum;
  }
  __syncthreads();  // before anyone writes again
  return {before, total};
}

template <class Int>
__device__ __forceinline__ Prefix<Int> block_prefix(ScanShared<Int>& shared, Int value) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  Int sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const Int left = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += left;
  }
  return across_warps(shared, sum - value, lane == 31, sum);
}

// Of votes, one per thread: the warp's are counted by one instruction.
__device__ __forceinline__ Prefix<int> block_votes(ScanShared<int>& shared, bool mine) {
  const unsigned votes = __ballot_sync(~0u, mine);
  const int lane = static_cast<int>(threadIdx.x % 32);
  return across_warps(shared, __popc(votes & ((1u << lane) - 1)), lane == 0, __popc(votes));
}

}  // namespace htc::cuda
