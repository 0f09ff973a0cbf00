// Boxes decided 64 at a time, best first: what walks down a list of them does with a chunk.
#pragma once
#include "cuda/nms_overlap.cuh"
#include "cuda/nms_select.cuh"

namespace htc::cuda {
namespace {

struct WalkShared {
  SelectShared select;
  Box boxes[kChunk];
  int64_t classes[kChunk];
  uint64_t earlier[kChunk];  // the chunk's better boxes that overlap this one
  unsigned gone[2];          // bits: suppressed by what was kept before
  int offset, kept;
};

// Marks the chunk's boxes that a kept one suppresses, and each box's better ones in the chunk that overlap it.
__device__ __forceinline__ void compare_chunk(const NmsParams& p, WalkShared& s, int64_t base, int kept) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const Box mine[2] = {s.boxes[lane], s.boxes[lane + 32]};
  const int64_t classes[2] = {s.classes[lane], s.classes[lane + 32]};
  bool gone[2] = {false, false};
  for (int j = warp; j < kept; j += kWarps) {
    const Box better = load_box(p.kept_boxes + base + j);
    const int64_t own = p.kept_classes[base + j];
#pragma unroll
    for (int h = 0; h < 2; h++) gone[h] = gone[h] || (own == classes[h] && overlaps(p, better, mine[h]));
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const unsigned bits = __ballot_sync(~0u, gone[h]);
    if (lane == 0 && bits != 0) atomicOr(&s.gone[h], bits);
  }
  for (int i = warp; i < kChunk; i += kWarps) {
    const uint64_t bits = better_overlaps(p, mine, classes, s.boxes[i], s.classes[i], i);
    if (lane == 0) s.earlier[i] = bits;
  }
}

// One warp decides the chunk of `size` boxes.
__device__ __forceinline__ uint64_t settle_chunk(const WalkShared& s, int size) {
  uint64_t gone = s.gone[0] | static_cast<uint64_t>(s.gone[1]) << 32;
  if (size < kChunk) gone |= ~uint64_t{0} << size;
  return settle_chunk(s.earlier, gone);
}

}  // namespace
}  // namespace htc::cuda
