// Boxes moved by the deltas of their best class, and clipped: one launch, a warp per box, whose lanes look for the
// class.
#include "cuda/rows.cuh"

namespace htc::cuda {
namespace {

constexpr int kThreads = 128, kBoxes = kThreads / 32;

// Larger for a better logit, the lower class of two equal ones, and the first NaN before all. Never 0.
__device__ __forceinline__ uint64_t class_key(float logit, int label) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 and 0 tie
  const uint32_t ordered = logit != logit ? ~0u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(label);
}

__device__ __forceinline__ int best_class(const Refine& p, int image, int row) {
  const int64_t start = start_of(p.logits, image, row);
  uint64_t best = 0;
  for (int c = static_cast<int>(threadIdx.x % 32); c < p.classes; c += 32)
    best = max(best, class_key(load(p.logits, start + c * p.logits.stride_c), c));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const auto high = __shfl_xor_sync(~0u, static_cast<uint32_t>(best >> 32), step);
    const auto low = __shfl_xor_sync(~0u, static_cast<uint32_t>(best), step);
    best = max(best, static_cast<uint64_t>(high) << 32 | low);
  }
  return static_cast<int>(~static_cast<uint32_t>(best));
}

__global__ void __launch_bounds__(kThreads) refine_boxes(const __grid_constant__ Refine p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kBoxes + threadIdx.x / 32;
  if (at >= p.moves.images * p.moves.rows) return;
  const int image = static_cast<int>(at / p.moves.rows), row = static_cast<int>(at - image * p.moves.rows);
  int64_t label = !p.moves.by_class ? 0 : p.labels != nullptr ? p.labels[at] : -1;
  if (label < 0) label = best_class(p, image, row);
  if (threadIdx.x % 32 != 0) return;
  const Box box = label < p.classes ? moved_box(p.moves, image, row, static_cast<int>(label)) : Box{};
  store_box(p.out + 4 * at, box);
}

}  // namespace

void refine(const Refine& op, Stream stream) {
  const int64_t boxes = op.moves.images * op.moves.rows;
  launch("refine_boxes", refine_boxes, static_cast<unsigned>(ceil_div<int64_t>(boxes, kBoxes)), kThreads, 0, stream,
         op);
}

}  // namespace htc::cuda
