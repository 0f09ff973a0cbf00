// RoIAlign forward over all levels, and the semantic map, in one launch.
// Weights are separable: one along y times one along x. A group of lanes, each with a 16-byte vector of channels, walks
// along a row of bins, column of pixels by column; a column that two bins have in common is read once and added to
// both. Rows of pixels that two rows of bins have in common are read by two groups that walk side by side in one block:
// the second finds them in the first-level cache.
// Samples that fall on the same pixels are merged first. Precise pooling is the same with other weights.
#include <algorithm>

#include "cuda/roi_walk.cuh"

namespace htc::cuda {
namespace {

constexpr int kThreads = 448;        // fourteen warps: the rows of 14 x 14 bins
constexpr int kWantedLanes = 98304;  // 23 warps for each of 132 multiprocessors, which have room for 28

// How many pieces each of a RoI's rows of bins is cut into, so that no walk is too long.
__device__ __forceinline__ int pieces(const ForwardParams& p, const RoiPlace& roi) {
  float pixels = 0.0f;  // of a bin, on all its maps
  for (int slot = 0; roi.valid && slot < (p.roi.semantic >= 0 ? 2 : 1); slot++) {
    const Map& map = p.roi.maps[slot == 0 ? roi.level : p.roi.semantic];
    const float height = fminf(fabsf(roi.box.y2 - roi.box.y1) * map.scale / static_cast<float>(p.roi.out_h),
                               static_cast<float>(map.height));
    const float width = fminf(fabsf(roi.box.x2 - roi.box.x1) * map.scale, static_cast<float>(map.width));
    pixels += (height + 2.0f) * width / static_cast<float>(p.roi.out_w);
  }
  const int bins = max(static_cast<int>(fminf(p.long_walk / pixels, static_cast<float>(p.roi.out_w))), 1);
  return min(max(ceil_div(p.roi.out_w, bins), p.fewest), p.most);
}

// A block's tasks lie below each other: neighbouring rows of bins have more pixels in common than pieces of a row.
template <class T, int V, class Kind>
__device__ __forceinline__ Task<T, V> task_of(const ForwardParams& p, const RoiTables<Kind, V>& tables,
                                              const Candidate& candidate, int k, int number, int lane) {
  const RoiParams& r = p.roi;
  const RoiPlace& roi = candidate.roi;
  const int per_row = candidate.per_row, piece = number / r.out_h, ph = number - piece * r.out_h;
  Task<T, V> task{{}, k, ph, piece * r.out_w / per_row};
  Share<T, V>& share = task.share;
  share.slots = !roi.valid ? 0 : r.semantic >= 0 ? 2 : 1;
  share.level = roi.level;
  share.mine = blockIdx.y * blockDim.x + lane;
  share.bins = piece < per_row ? (piece + 1) * r.out_w / per_row - task.begin : 0;
  share.rows = tables.at(0, true, ph);
  share.columns = tables.at(0, false, task.begin);
  const int64_t bin = (static_cast<int64_t>(k) * r.out_h + ph) * r.out_w + task.begin;
  share.out = static_cast<Vector<T, V>*>(p.out) + bin * (r.channels / V) + share.mine;
  return task;
}

template <class T, int V, class Kind>
__global__ void __launch_bounds__(kThreads, 2) roi_align_forward(const __grid_constant__ ForwardParams p) {
  HTC_SHARED(ForwardShared, shared);
  const RoiParams& r = p.roi;
  const RoiTables<Kind, V> tables{dynamic_shared<int2>(), r.out_h, r.out_w, p.room};
  // A RoI's parts are for its own blocks along z, then for those of the RoI behind it, and so on. Each lane looks after
  // one of the RoIs that may have a part for this block.
  auto roi_of = [&](int turn) {
    const int k = static_cast<int>(blockIdx.x) - turn;
    return k < 0 ? k + static_cast<int>(r.count) : k;
  };
  auto first_task = [&](int turn) {
    return (opaque(turn) * static_cast<int>(gridDim.z) + static_cast<int>(blockIdx.z)) * static_cast<int>(blockDim.y);
  };
  if (const int turn = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); turn < 32) {
    bool wanted = false;
    if (turn < p.helpers) {
      const RoiPlace roi = place_roi(r, roi_of(turn));
      const int per_row = pieces(p, roi);
      shared.candidates[turn] = {roi, per_row};
      wanted = first_task(turn) < r.out_h * per_row;
    }
    const unsigned found = __ballot_sync(~0u, wanted);
    if (turn == 0) shared.wanted = found;
  }
  __syncthreads();
  int turn = -1;
#pragma unroll 1
  while (const unsigned left = shared.wanted & ~0u << (turn + 1)) {
    turn = __ffs(static_cast<int>(left)) - 1;
    const RoiPlace roi = shared.candidates[turn].roi;
    const int slots = !roi.valid ? 0 : r.semantic >= 0 ? 2 : 1;
    // Asked for anew, so that what follows from them costs no registers during the walk.
    const int lane = opaque(static_cast<int>(threadIdx.x)), group = opaque(static_cast<int>(threadIdx.y));
    const int thread = group * static_cast<int>(blockDim.x) + lane,
              threads = static_cast<int>(blockDim.x) * opaque(static_cast<int>(blockDim.y));
    __syncthreads();  // the last RoI's tables are read no more
    if (thread < slots) {
      const Map& map = r.maps[thread == 0 ? roi.level : r.semantic];
      shared.image[thread] = static_cast<const T*>(map.data) + roi.image * map.stride_n;
    }
    bool listed = true;
    if (roi.valid) listed = tables.fill(r, roi, thread, threads);
    const bool any_long = __syncthreads_or(!listed);
    if (!any_long) {
      join_columns(tables, slots, thread, threads);
      __syncthreads();
    }
    const Task<T, V> task =
        task_of<T, V>(p, tables, shared.candidates[turn], roi_of(turn), first_task(turn) + group, lane);
    if (task.share.bins == 0) continue;
    if (any_long) walk_long<T, V, Kind>(p, shared, task.k, task.ph, task.begin, task.share);
    else walk<T, V>(p, shared, task.share);
  }
}

template <class T, int V, class Kind>
void run(const RoiAlign& a, Stream stream) {
  ForwardParams p{roi_params(a), a.out, 0, 0, 0, 0, 0.0f};
  const int channels = p.roi.channels;
  p.room = table_room(p.roi);
  int lanes = 32;
  while (lanes > 8 && lanes / 2 * V >= channels) lanes /= 2;
  const int slices = ceil_div(channels, lanes * V);
  const int64_t walks = a.count * slices * a.out_h;
  p.fewest = static_cast<int>(std::clamp<int64_t>(ceil_div<int64_t>(kWantedLanes / lanes, walks), 1, a.out_w));
  p.long_walk = p.fewest > 1 ? 64.0f : 256.0f;  // of few RoIs, the longest walk is what all wait for
  // Blocks of one RoI are of one size, and of whole warps.
  const int tasks = a.out_h * p.fewest, parts = ceil_div(tasks, kThreads / lanes), warp = 32 / lanes;
  const int groups = ceil_div(ceil_div(tasks, parts), warp) * warp;
  const int helpers = ceil_div(ceil_div(a.out_h * a.out_w, groups), parts);
  p.helpers = static_cast<int>(std::min<int64_t>({helpers, kHelpers, a.count}));
  p.most = std::clamp(p.helpers * parts * groups / a.out_h, p.fewest, a.out_w);
  const dim3 block(lanes, groups), grid(static_cast<unsigned>(a.count), slices, parts);
  const size_t shared = RoiTables<Kind>::bytes(p.roi, p.room);
  launch("roi_align_forward", roi_align_forward<T, V, Kind>, grid, block, shared, stream, p);
}

template <class T>
void run_type(const RoiAlign& a, Stream stream) {
  const bool wide = vectorised(roi_params(a), a.out, kVector<T>);
  if (a.precise) return wide ? run<T, kVector<T>, Precise>(a, stream) : run<T, 1, Precise>(a, stream);
  wide ? run<T, kVector<T>, Sampled>(a, stream) : run<T, 1, Sampled>(a, stream);
}

}  // namespace

void roi_align(const RoiAlign& a, Stream stream) {
  if (a.count == 0 || a.channels == 0 || a.out_h == 0 || a.out_w == 0) return;
  switch (a.dtype) {
    case DType::f32: return run_type<float>(a, stream);
    case DType::f16: return run_type<f16>(a, stream);
    case DType::bf16: return run_type<bf16>(a, stream);
    default: throw std::runtime_error("htc_fast: RoI pooling on CUDA takes float32, float16 or bfloat16 features");
  }
}

}  // namespace htc::cuda
