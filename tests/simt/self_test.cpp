// Small kernels that show what the emulator does and what it catches; called from test_emulator.py.
#include <cstdio>

#include "cuda/half.cuh"

namespace {
using namespace htc::cuda;

struct Parts {
  float part[32];
};

// Sum of a block: shuffles, one shared array, one barrier, one atomic.
__global__ void block_sum(const float* x, float* out, int count) {
  HTC_SHARED(Parts, shared);
  float sum = 0;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < static_cast<unsigned>(count);
       i += gridDim.x * blockDim.x)
    sum += x[i];
  for (int flip = 16; flip; flip /= 2) sum += __shfl_xor_sync(~0u, sum, flip);
  if (threadIdx.x % 32 == 0) shared.part[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float all = 0;
    for (unsigned w = 0; w < blockDim.x / 32; w++) all += shared.part[w];
    atomicAdd(out, all);
  }
}
// The same without its barrier.
__global__ void racy_sum(const float* x, float* out) {
  HTC_SHARED(Parts, shared);
  shared.part[threadIdx.x % 32] = x[threadIdx.x];
  if (threadIdx.x == 0) *out = shared.part[31];
}
// Lanes read what their neighbours wrote, then write again: right if warps keep to themselves and wait in between.
__global__ void hand_round(float* out, bool wait, bool apart) {
  HTC_SHARED(Parts, shared);
  const unsigned lane = threadIdx.x % 32, other = apart ? threadIdx.x / 32 * 8 : 0;
  for (int round = 0; round < 3; round++) {
    if (lane < 8) shared.part[other + lane] = static_cast<float>(round);
    __syncwarp();
    out[threadIdx.x] += shared.part[other + lane % 8] + shared.part[other];
    if (wait) __syncwarp();
  }
}
__global__ void two_blocks_one_place(float* out) {
  if (threadIdx.x == 0) *out = static_cast<float>(blockIdx.x);
}
__global__ void missed_barrier(float* out) {
  if (threadIdx.x < 5) return;
  if (threadIdx.x == 40) __shfl_sync(~0u, 1, 0);
  __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void read_unwritten(float* out) {
  HTC_SHARED(Parts, shared);
  if (blockIdx.x == 0) shared.part[3] = 7;
  __syncthreads();
  out[blockIdx.x] = shared.part[3];
}
__global__ void outside_shared(float* out) {
  HTC_SHARED(Parts, shared);
  shared.part[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = static_cast<const volatile float*>(shared.part)[threadIdx.x + (blockDim.x == 33 ? 1 : 0)];
}
__global__ void votes(uint32_t* out) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned odd = __ballot_sync(~0u, lane & 1);
  const unsigned half = lane < 16 ? __ballot_sync(0xffffu, lane % 3 == 0) : __ballot_sync(0xffff0000u, lane % 5 == 0);
  const unsigned same = __match_any_sync(~0u, lane / 4);
  const int total = __syncthreads_count(lane < 3);
  const unsigned up = __shfl_up_sync(~0u, lane, 2), down = __shfl_down_sync(~0u, lane, 3, 8);
  uint32_t* row = out + threadIdx.x * 6;
  row[0] = odd;
  row[1] = half;
  row[2] = same;
  row[3] = static_cast<uint32_t>(total);
  row[4] = up;
  row[5] = down;
}
__global__ void roundtrip(const float* in, uint32_t* halves, uint32_t* brains, float* back) {
  const unsigned i = threadIdx.x + blockIdx.x * blockDim.x;
  halves[i] = pack(f16{}, in[i], 0.0f);
  brains[i] = pack(bf16{}, in[i], 0.0f);
  back[2 * i] = unpack(f16{}, halves[i]).x;
  back[2 * i + 1] = unpack(bf16{}, brains[i]).x;
}
__global__ void vector_add(float* out) { add4(out + 4 * (threadIdx.x % 2), 1, 2, 3, 4); }

int run(const char* which, const float* in, float* out, int count, char* error) {
  auto words = reinterpret_cast<uint32_t*>(out);
  const std::string name = which;
  try {
    if (name == "block_sum") launch(which, block_sum, 16, 256, 0, nullptr, in, out, count);
    else if (name == "racy_sum") launch(which, racy_sum, 1, 64, 0, nullptr, in, out);
    else if (name == "hand_round") launch(which, hand_round, 1, 64, 0, nullptr, out, true, true);
    else if (name == "hand_round_too_early") launch(which, hand_round, 1, 64, 0, nullptr, out, false, true);
    else if (name == "hand_round_together") launch(which, hand_round, 1, 64, 0, nullptr, out, true, false);
    else if (name == "two_blocks_one_place") launch(which, two_blocks_one_place, 2, 32, 0, nullptr, out);
    else if (name == "missed_barrier") launch(which, missed_barrier, 1, 64, 0, nullptr, out);
    else if (name == "read_unwritten") launch(which, read_unwritten, count, 32, 0, nullptr, out);
    else if (name == "outside_shared") launch(which, outside_shared, 1, count, 0, nullptr, out);
    else if (name == "votes") launch(which, votes, 1, 64, 0, nullptr, words);
    else if (name == "roundtrip")
      launch(which, roundtrip, count / 32, 32, 0, nullptr, in, words, words + count, out + 2 * count);
    else if (name == "vector_add") launch(which, vector_add, 3, 64, 0, nullptr, out);
    else if (name == "too_many") launch(which, vector_add, 1, 2048, 0, nullptr, out);
  } catch (const std::exception& e) {
    std::snprintf(error, 512, "%s", e.what());
    return 1;
  }
  return 0;
}
}  // namespace

extern "C" __attribute__((visibility("default"))) int self_test(const char* which, const float* in, float* out,
                                                                int count, char* error) {
  return run(which, in, out, count, error);
}
