// Boxes moved by the deltas of their best class, and clipped: one launch. A warp's lanes look for a box's class; where
// all classes move alike, a thread is enough.
#include "cuda/rows.cuh"

namespace htc::cuda {
namespace {

constexpr int kThreads = 128;

// Larger for a better logit, the lower class of two equal ones, and the first NaN before all. Never 0.
__device__ __forceinline__ uint64_t class_key(float logit, int label) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 and 0 tie
  const uint32_t ordered = logit != logit ? ~0u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(label);
}

// By a whole warp.
__device__ __forceinline__ int best_class(const Refine& p, int image, int row) {
  const int64_t start = start_of(p.logits, image, row), apart = 32 * p.logits.stride_c;
  const int lane = static_cast<int>(threadIdx.x % 32), classes = static_cast<int>(p.classes);
  uint64_t best = 0;
  for (int first = lane; first < classes; first += 4 * 32) {
    float logits[4];
    const unsigned wanted = 15u >> max(4 - ceil_div(classes - first, 32), 0);
    load_four(p.logits, start + first * p.logits.stride_c, apart, wanted, logits);
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (wanted >> i & 1) best = max(best, class_key(logits[i], first + 32 * i));
  }
  const auto high = static_cast<uint32_t>(best >> 32), most = __reduce_max_sync(~0u, high);
  const uint32_t low = __reduce_max_sync(~0u, high == most ? static_cast<uint32_t>(best) : 0);
  return static_cast<int>(~low);
}

// A warp per box where it may have to look for the class, otherwise a thread.
template <bool kLooking>
__global__ void __launch_bounds__(kThreads) refine_boxes(const __grid_constant__ Refine p) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x,
                at = kLooking ? thread / 32 : thread;
  if (at >= p.moves.images * p.moves.rows) return;
  const int image = p.moves.images == 1 ? 0 : static_cast<int>(at / p.moves.rows);
  const int row = static_cast<int>(at - image * p.moves.rows);
  const Start start = start_box(p.moves, image, row);
  int64_t label = 0;
  if (kLooking) {
    label = p.labels != nullptr ? p.labels[at] : -1;
    if (label < 0) label = best_class(p, image, row);
    if (threadIdx.x % 32 != 0) return;
  }
  const Box box = label < p.classes ? moved_box(p.moves, start, image, row, static_cast<int>(label)) : Box{};
  store_box(p.out + 4 * at, box);
}

}  // namespace

void refine(const Refine& op, Stream stream) {
  const int64_t boxes = op.moves.images * op.moves.rows, threads = op.moves.by_class ? 32 * boxes : boxes;
  launch("refine_boxes", op.moves.by_class ? refine_boxes<true> : refine_boxes<false>,
         static_cast<unsigned>(ceil_div<int64_t>(threads, kThreads)), kThreads, 0, stream, op);
}

}  // namespace htc::cuda
