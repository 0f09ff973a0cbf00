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

// within: what the threads of the warp up to this one have together, itself included.
template <class Int>
__device__ __forceinline__ Prefix<Int> block_prefix(ScanShared<Int>& shared, Int value, Int within) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  __syncthreads();  // who came before may still be reading
  if (lane == 31) shared.warps[warp] = within;
  __syncthreads();
  Prefix<Int> prefix{within - value, 0};
  for (int w = 0; w < static_cast<int>(blockDim.x / 32); w++) {
    if (w < warp) prefix.before += shared.warps[w];
    prefix.total += shared.warps[w];
  }
  return prefix;
}

template <class Int>
__device__ __forceinline__ Prefix<Int> block_prefix(ScanShared<Int>& shared, Int value) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  Int within = value;
  for (int step = 1; step < 32; step *= 2) {
    const Int left = __shfl_up_sync(~0u, within, step);
    if (lane >= step) within += left;
  }
  return block_prefix(shared, value, within);
}

// Of votes, one per thread: the warp's are counted by one instruction.
__device__ __forceinline__ Prefix<int> block_votes(ScanShared<int>& shared, bool mine) {
  const unsigned votes = __ballot_sync(~0u, mine), lane = threadIdx.x % 32;
  return block_prefix(shared, static_cast<int>(mine), __popc(votes & (~0u >> (31 - lane))));
}

}  // namespace htc::cuda
