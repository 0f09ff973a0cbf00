// Whether boxes overlap, and which of 64 sorted ones stay.
#pragma once
#include "cuda/nms_groups.cuh"

namespace htc::cuda {
namespace {

struct Overlap {
  float shared, together;
};
__device__ __forceinline__ Overlap overlap_of(const Box& a, const Box& b) {
  const float width = fmaxf(fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1), 0.0f);
  const float height = fmaxf(fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1), 0.0f);
  const float shared = width * height;
  return {shared, (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared};
}

// Whether a division has to decide.
__device__ __forceinline__ bool may_exceed(const NmsParams& p, const Overlap& o) {
  return !(p.threshold > 0.0f) | (o.shared > o.together * p.bound);
}

// As plain IoU decides.
__device__ __forceinline__ bool exceeds(const NmsParams& p, const Overlap& o) {
  return o.shared / o.together > p.threshold;
}

__device__ __forceinline__ bool overlaps(const NmsParams& p, const Box& a, const Box& b) {
  const Overlap o = overlap_of(a, b);
  return may_exceed(p, o) && exceeds(p, o);
}

// Of a lane's two boxes, those (of `maybe`) that overlap `box`. Both are worked out together: the lanes part only where
// a division has to decide.
__device__ __forceinline__ void keep_overlapping(const NmsParams& p, const Box (&own)[2], const Box& box,
                                                 bool (&maybe)[2]) {
  Overlap found[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    found[h] = overlap_of(own[h], box);
    maybe[h] = maybe[h] & may_exceed(p, found[h]);
  }
  if (!(maybe[0] | maybe[1])) return;
#pragma unroll
  for (int h = 0; h < 2; h++) maybe[h] = maybe[h] & exceeds(p, found[h]);
}

// Which of a chunk's boxes that are better than its i-th overlap it. The chunk is the warp's, two boxes a lane.
template <class Label>
__device__ __forceinline__ uint64_t better_overlaps(const NmsParams& p, const Box (&chunk)[2],
                                                    const Label (&classes)[2], const Box& box, Label cls, int i) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  bool hits[2] = {lane < i && cls == classes[0], lane + 32 < i && cls == classes[1]};
  keep_overlapping(p, chunk, box, hits);
  const unsigned low = __ballot_sync(~0u, hits[0]), high = __ballot_sync(~0u, hits[1]);
  return low | static_cast<uint64_t>(high) << 32;
}

// One warp decides a chunk: a box stays once all better ones that overlap it (`earlier`) are gone, and goes once one of
// them stays. The best undecided box is always decidable; usually a few rounds decide all.
__device__ __forceinline__ uint64_t settle_own(const uint64_t (&mine)[2], uint64_t gone) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint64_t stays = 0, goes = gone;
  while ((stays | goes) != ~uint64_t{0}) {
    uint64_t more_stay = 0, more_go = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const bool open = !(goes >> (lane + 32 * h) & 1);
      more_stay |= static_cast<uint64_t>(__ballot_sync(~0u, open && (mine[h] & ~goes) == 0)) << 32 * h;
    }
    stays |= more_stay;
#pragma unroll
    for (int h = 0; h < 2; h++) more_go |= static_cast<uint64_t>(__ballot_sync(~0u, (mine[h] & stays) != 0)) << 32 * h;
    goes |= more_go;
  }
  return stays;
}
__device__ __forceinline__ uint64_t settle_chunk(const uint64_t* earlier, uint64_t gone) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const uint64_t mine[2] = {earlier[lane], earlier[lane + 32]};
  return settle_own(mine, gone);
}

}  // namespace
}  // namespace htc::cuda
