// RoIAlign forward over all levels, and the semantic map, in one launch.
// Weights are separable: one along y times one along x. A group of lanes, each with a 16-byte vector of channels, walks
// along a row of bins, column of pixels by column; a column that two bins have in common is read once and added to
// both. Rows of pixels that two rows of bins have in common are read by two groups that walk side by side in one block:
// the second finds them in the first-level cache.
// Samples that fall on the same pixels are merged first. Precise pooling is the same with other weights.
#include <algorithm>

#include "cuda/roi_tables.cuh"

namespace htc::cuda {
namespace {

constexpr int kThreads = 448;        // fourteen warps: the rows of 14 x 14 bins
constexpr int kInFlight = 4;         // pixels a lane asks for before it uses the first
constexpr int kHelpers = 8;          // RoIs whose parts a block may do
constexpr int kWantedLanes = 98304;  // 23 warps for each of 132 multiprocessors, which have room for 28

struct ForwardParams {
  RoiParams roi;
  void* out;         // [K, out_h, out_w, C]
  int room;          // weights per table line
  int fewest, most;  // pieces that a row of bins is cut into
  int helpers;
  float long_walk;  // pixels; longer walks are cut, down to single bins
};

// Per slot (0 the RoI's level, 1 the semantic map): this RoI's image.
struct ForwardShared {
  const void* image[2];
};

// A column of pixels on its way into a bin and, where they have it in common, into the bin behind it.
template <class T, int V, bool Common>
struct Column {
  const Vector<T, V>* top;
  int64_t step;  // between rows; of single elements
  float weight, behind;

  template <int N>
  __device__ __forceinline__ void add_rows(const PixelWeight* rows, float (&sum)[V], float (&next)[V]) const {
    Vector<T, V> value[N];
    float at_y[N];
#pragma unroll
    for (int u = 0; u < N; u++) {
      const PixelWeight row = rows[u];
      at_y[u] = row.weight;
      value[u] = load_elements<T, V>(reinterpret_cast<const T*>(top + offset_of<V>(row, step)));
    }
#pragma unroll
    for (int u = 0; u < N; u++) {
      float wide[V];
      load_floats<T, V>(value[u], wide);
      const float one = at_y[u] * weight, other = at_y[u] * behind;
#pragma unroll
      for (int c = 0; c < V; c++) {
        sum[c] = fmaf(one, wide[c], sum[c]);
        if (Common) next[c] = fmaf(other, wide[c], next[c]);
      }
    }
  }
  __device__ __forceinline__ void add(const PixelWeight* rows, int count, float (&sum)[V], float (&next)[V]) const {
#pragma unroll 1
    for (; count >= kInFlight; count -= kInFlight, rows += kInFlight) add_rows<kInFlight>(rows, sum, next);
    static_assert(kInFlight == 4);
    switch (count) {
      case 3: return add_rows<3>(rows, sum, next);
      case 2: return add_rows<2>(rows, sum, next);
      case 1: return add_rows<1>(rows, sum, next);
      default: return;
    }
  }
};

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

// A group's share of a RoI: some neighbouring bins of a row. What follows from other values is not kept: at 72
// registers a multiprocessor has room for 28 warps.
template <class T, int V>
struct Share {
  int slots, level;            // slots: the maps it is pooled from; none for a RoI that gives zeros
  unsigned mine;               // this lane's vector of channels; lanes behind the last one do it over again
  int bins;                    // that are left
  const int2 *rows, *columns;  // the table's lines, on the RoI's level, of this row of bins and of the first bin
  Vector<T, V>* out;

  __device__ __forceinline__ const Map& map(const RoiParams& r, int slot) const {
    return r.maps[slot == 0 ? level : r.semantic];
  }
  __device__ __forceinline__ const Vector<T, V>* start(const RoiParams& r, int slot,
                                                       const ForwardShared& shared) const {
    const unsigned vector = min(mine, static_cast<unsigned>(r.channels) / V - 1);
    // Read again for every column: two registers less.
    const auto* first = static_cast<const Vector<T, V>*>(shared.image[opaque(slot)]);
    return V == 1 ? first + vector * map(r, slot).stride_c : first + vector;
  }
  // Stores a bin and goes on to the next one.
  __device__ __forceinline__ void finish(const ForwardParams& p, const float (&sum)[V]) {
    if (mine < static_cast<unsigned>(p.roi.channels) / V) store_elements<T, V>(reinterpret_cast<T*>(out), sum);
    out += p.roi.channels / V;
    columns += p.room + 1;
    bins--;
  }
};

// With the columns of the tables. `from` has two bits per slot: how many columns of a bin the bin before it has read
// for it.
template <class T, int V>
__device__ __forceinline__ void walk(const ForwardParams& p, const ForwardShared& shared, Share<T, V> share) {
  int from = 0;
  float sum[V] = {};
#pragma unroll 1
  while (share.bins > 0) {
    float next[V] = {};
#pragma unroll 1
    for (int slot = 0; slot < share.slots; slot++) {
      const Map& map = share.map(p.roi, slot);
      const int table = slot * (p.roi.out_h + p.roi.out_w) * (p.room + 1);
      const int2 *rows = share.rows + table, *columns = share.columns + table, *behind = columns + p.room + 1;
      const int count = columns->x;
      int i = from >> 2 * slot & 3, alone = count;
      // The bin behind can be given its first columns, or none of them.
      if (share.bins > 1) alone -= behind->y;
      if (i > alone) alone = count;
      from = (from & ~(3 << 2 * slot)) | (count - alone) << 2 * slot;
#pragma unroll 1
      for (; i < alone; i++) {
        const PixelWeight at = pixels_of(columns)[i];
        const Column<T, V, false> column{opaque(share.start(p.roi, slot, shared) + offset_of<V>(at, map.stride_w)),
                                         map.stride_h, at.weight, 0.0f};
        column.add(pixels_of(rows), rows->x, sum, next);
      }
#pragma unroll 1
      for (; i < count; i++) {
        const PixelWeight at = pixels_of(columns)[i];
        const Column<T, V, true> column{opaque(share.start(p.roi, slot, shared) + offset_of<V>(at, map.stride_w)),
                                        map.stride_h, at.weight, pixels_of(behind)[i - alone].weight};
        column.add(pixels_of(rows), rows->x, sum, next);
      }
    }
    share.finish(p, sum);
#pragma unroll
    for (int c = 0; c < V; c++) sum[c] = next[c];
  }
}

// The same where a line is too long for its table: bin by bin, and every lane of the group works out one pixel's place
// and weight and hands it to the others.
template <class T, int V, class Kind>
__device__ __forceinline__ void walk_long(const ForwardParams& p, const ForwardShared& shared, int k, int ph, int pw,
                                          Share<T, V> share) {
  const int lanes = static_cast<int>(blockDim.x);
#pragma unroll 1
  for (; share.bins > 0; pw++) {
    float sum[V] = {};
#pragma unroll 1
    for (int slot = 0; slot < share.slots; slot++) {
      const int table = slot * (p.roi.out_h + p.roi.out_w) * (p.room + 1);
      const int2 *rows = share.rows + table, *columns = share.columns + table;
#pragma unroll 1
      for (int first = 0; first < abs(rows->x) * abs(columns->x); first += lanes) {
        const int wide = abs(columns->x), pixels = abs(rows->x) * wide;
        const int mine = first + opaque(static_cast<int>(threadIdx.x)), row = mine / wide;
        decltype(offset_of<V>(PixelWeight{}, 0)) at = 0;
        float weight = mine < pixels ? 1.0f : 0.0f;
#pragma unroll 1
        for (int axis = 0; axis < 2 && mine < pixels; axis++) {
          const bool vertical = axis == 0;
          const TableLine line = table_line(vertical ? rows : columns);
          const int index = slot == 0 ? share.level : p.roi.semantic;
          const Map& map = share.map(p.roi, slot);
          const PixelWeight one = pixel_at<Kind, V>(p.roi, opaque(k), index, vertical, vertical ? ph : pw, line,
                                                    vertical ? row : mine - row * wide);
          at += offset_of<V>(one, vertical ? map.stride_h : map.stride_w);
          weight *= one.weight;
        }
        const int count = min(lanes, pixels - first);
        const int first_lane = opaque(static_cast<int>(threadIdx.y)) * lanes % 32;
        const unsigned group = (lanes == 32 ? ~0u : (1u << lanes) - 1) << first_lane;
#pragma unroll 1
        for (int j = 0; j < count; j++) {
          const auto from = __shfl_sync(group, at, first_lane + j);
          const float w = __shfl_sync(group, weight, first_lane + j);
          // Nothing is read for a weight of zero: zero times an infinite pixel would be NaN.
          if (w == 0.0f) continue;
          const auto* start = share.start(p.roi, slot, shared);
          multiply_add<T, V>(w, load_elements<T, V>(reinterpret_cast<const T*>(start + static_cast<uint64_t>(from))),
                             sum);
        }
      }
    }
    share.finish(p, sum);
  }
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
  bool wanted = false;
  if (const int turn = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x) % 32; turn < p.helpers)
    wanted = first_task(turn) < r.out_h * pieces(p, place_roi(r, roi_of(turn)));
#pragma unroll 1
  for (unsigned left = __ballot_sync(~0u, wanted); left != 0; left &= left - 1) {
    const int turn = __ffs(static_cast<int>(left)) - 1, k = roi_of(turn);
    const RoiPlace roi = place_roi(r, k);
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
    // A block's tasks lie below each other: neighbouring rows of bins have more pixels in common than pieces of a row.
    const int per_row = pieces(p, roi), task = first_task(turn) + group, piece = task / r.out_h;
    if (piece >= per_row) continue;
    const int ph = task - piece * r.out_h, begin = piece * r.out_w / per_row, end = (piece + 1) * r.out_w / per_row;
    const int64_t bin = (static_cast<int64_t>(k) * r.out_h + ph) * r.out_w + begin;
    const unsigned mine = blockIdx.y * blockDim.x + lane;
    Share<T, V> share{slots, roi.level, mine, end - begin, tables.at(0, true, ph), tables.at(0, false, begin), nullptr};
    share.out = static_cast<Vector<T, V>*>(p.out) + bin * (r.channels / V) + mine;
    if (any_long) walk_long<T, V, Kind>(p, shared, k, ph, begin, share);
    else walk<T, V>(p, shared, share);
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
