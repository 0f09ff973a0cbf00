// Boxes decided 64 at a time, best first: what walks down a list of them does with a chunk.
#pragma once
#include "cuda/nms_matrix.cuh"

namespace htc::cuda {
namespace {

struct WalkShared {
  SelectShared select;
  Box boxes[kChunk];
  int64_t classes[kChunk];
  uint64_t earlier[kChunk];    // the chunk's better boxes that overlap this one
  unsigned gone[2];            // bits: suppressed by what was kept before
  uint64_t stays[kWordTiles];  // of the first batch's chunks so far
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
    const Box box = s.boxes[i];
    unsigned bits[2];
#pragma unroll
    for (int h = 0; h < 2; h++)
      bits[h] = __ballot_sync(~0u, lane + 32 * h < i && s.classes[i] == classes[h] && overlaps(p, mine[h], box));
    if (lane == 0) s.earlier[i] = bits[0] | static_cast<uint64_t>(bits[1]) << 32;
  }
}

// One warp decides the chunk: a box stays once all better ones that overlap it are gone, and goes once one of them
// stays. The best undecided box is always decidable; usually a few rounds decide all.
__device__ __forceinline__ uint64_t settle_chunk(const WalkShared& s, int size) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint64_t stays = 0, goes = s.gone[0] | static_cast<uint64_t>(s.gone[1]) << 32;
  if (size < kChunk) goes |= ~uint64_t{0} << size;
  const uint64_t earlier[2] = {s.earlier[lane], s.earlier[lane + 32]};
  while ((stays | goes) != ~uint64_t{0}) {
    uint64_t more_stay = 0, more_go = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const bool open = !((stays | goes) >> (lane + 32 * h) & 1);
      more_stay |= static_cast<uint64_t>(__ballot_sync(~0u, open && (earlier[h] & ~goes) == 0)) << 32 * h;
      more_go |= static_cast<uint64_t>(__ballot_sync(~0u, open && (earlier[h] & stays) != 0)) << 32 * h;
    }
    stays |= more_stay;
    goes |= more_go;
  }
  return stays;
}

}  // namespace
}  // namespace htc::cuda
