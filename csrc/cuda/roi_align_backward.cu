// RoIAlign backward, the gathering way: every pixel of every map is written once, in its own type, by the block that
// owns its tile; the block goes through the RoIs that touch the tile in their order. No atomics, no fp32 copy of the
// maps, no memset, and the same bits every time.
//   sort_rois  puts the RoIs of every (map, image) next to each other, in order, with the pixels they touch
//   gather     one block per tile of pixels: finds its RoIs, works out a batch's weights, sums their gradients
#include <algorithm>

#include "cuda/block_scan.cuh"
#include "cuda/roi_geometry.cuh"

namespace htc::cuda {
namespace {

constexpr int kTileH = 4, kTileW = 8, kPixels = 2;  // a warp owns kPixels neighbours of one row
constexpr int kWarps = kTileH * kTileW / kPixels, kThreads = 32 * kWarps;
constexpr int kBatch = 32;  // RoIs whose weights are in shared memory at once, or fewer of many bins
constexpr size_t kSharedBatch = sizeof(float) * kBatch * 14 * (kTileH + kTileW);

// A RoI, and the pixels that it may touch.
struct alignas(8) Footprint {
  int32_t roi;
  int16_t y0, y1, x0, x1;  // inclusive, in tiles
};
struct Lists {
  int32_t* counts;        // [groups] where group = map * images + image
  int32_t* starts;        // [groups]
  Footprint* footprints;  // [K], and as many again for the semantic map
};

struct GatherParams {
  RoiParams roi;
  Lists lists;
  const void* grad;  // [K, out_h, out_w, C] in memory
  int tiles_before[kMaxMaps + 1], tiles_h[kMaxMaps], tiles_w[kMaxMaps];
  int batch;  // of kBatch at most
};

// The tiles an axis of a RoI can touch; empty (1, 0) if none.
template <class Kind>
__device__ __forceinline__ int2 touched_tiles(const RoiAxis<Kind>& axis, int tile) {
  const float last = axis.start + axis.length * static_cast<float>(axis.grid), top = static_cast<float>(axis.size);
  const float low = fminf(axis.start, last) - 1.0f, high = fmaxf(axis.start, last) + 1.0f;
  if (axis.samples == 0 || high < -1.0f || low > top) return make_int2(1, 0);
  return make_int2(static_cast<int>(fminf(fmaxf(low, 0.0f), top - 1.0f)) / tile,
                   static_cast<int>(fminf(fmaxf(high, 0.0f), top - 1.0f)) / tile);
}

// Which (map, image) a RoI belongs to; the semantic map takes every RoI.
__device__ __forceinline__ int group_of(const RoiParams& p, const RoiPlace& roi, bool semantic) {
  return (semantic ? p.semantic : roi.level) * p.images + roi.image;
}

// One block per group. It counts the RoIs of the groups before its own, then writes its own ones behind them.
template <class Kind>
__global__ void __launch_bounds__(1024) sort_rois(const __grid_constant__ RoiParams p, Lists lists) {
  HTC_SHARED(ScanShared<int>, shared);
  const int group = static_cast<int>(blockIdx.x);
  const bool semantic = group / p.images == p.semantic;
  int start = semantic ? static_cast<int>(p.count) : 0;
  for (int64_t base = 0; base < p.count; base += blockDim.x) {
    const int64_t k = base + threadIdx.x;
    bool earlier = false;
    if (k < p.count) {
      const RoiPlace roi = place_roi(p, k);
      earlier = roi.valid && group_of(p, roi, semantic) < group;
    }
    start += block_votes(shared, earlier).total;
  }
  int found = 0;
  for (int64_t base = 0; base < p.count; base += blockDim.x) {
    const int64_t k = base + threadIdx.x;
    bool mine = false;
    int2 rows{}, columns{};
    if (k < p.count) {
      const RoiPlace roi = place_roi(p, k);
      if (roi.valid && group_of(p, roi, semantic) == group) {
        rows = touched_tiles(roi_axis<Kind>(p, roi, group / p.images, true), kTileH);
        columns = touched_tiles(roi_axis<Kind>(p, roi, group / p.images, false), kTileW);
        mine = rows.x <= rows.y && columns.x <= columns.y;
      }
    }
    const Prefix<int> prefix = block_votes(shared, mine);
    if (mine)
      lists.footprints[start + found + prefix.before] = {static_cast<int32_t>(k), static_cast<int16_t>(rows.x),
                                                         static_cast<int16_t>(rows.y), static_cast<int16_t>(columns.x),
                                                         static_cast<int16_t>(columns.y)};
    found += prefix.total;
  }
  if (threadIdx.x == 0) {
    lists.starts[group] = start;
    lists.counts[group] = found;
  }
}

struct GatherShared {
  ScanShared<int> sort;
  int32_t hits[kThreads];
  // For each RoI of the batch: the bins that reach each row and each column of the tile (empty: 0, -1).
  int row_first[kBatch][kTileH], row_last[kBatch][kTileH];
  int column_first[kBatch][kTileW], column_last[kBatch][kTileW];
};

// Dynamic shared memory, for each RoI of the batch: [out_h][kTileH] weights of rows, then [out_w][kTileW] of columns.
__device__ __forceinline__ float* row_weights(const RoiParams& p, int i, int bin) {
  return dynamic_shared<float>() + i * (p.out_h * kTileH + p.out_w * kTileW) + bin * kTileH;
}
__device__ __forceinline__ float* column_weights(const RoiParams& p, int i, int bin) {
  return row_weights(p, i, p.out_h) + bin * kTileW;
}

// The bins that can have a sample between two places.
template <class Kind>
__device__ __forceinline__ int2 reaching_bins(const RoiAxis<Kind>& axis, float from, float to) {
  const float bins = static_cast<float>(axis.bins);
  const float length = axis.length * static_cast<float>(axis.grid) / bins;
  const float a = (from - axis.start) / length, b = (to - axis.start) / length;
  if (!(a == a && b == b)) return make_int2(0, axis.bins - 1);  // bins without length
  return make_int2(static_cast<int>(fminf(fmaxf(fminf(a, b) - 1.0f, 0.0f), bins)),
                   static_cast<int>(fminf(fmaxf(fmaxf(a, b) + 1.0f, -1.0f), bins - 1.0f)));
}

// One line of the tile, one RoI: what each bin's gradient counts in that row or column of pixels.
template <class Kind>
__device__ void fill_weights(const RoiAxis<Kind>& axis, int pixel, float* weights, int stride, int& first, int& last) {
  first = 0;
  last = -1;
  for (int bin = 0; bin < axis.bins; bin++) weights[bin * stride] = 0.0f;
  if (pixel >= axis.size) return;
  const int2 range = reaching_bins(axis, static_cast<float>(pixel - 1), static_cast<float>(pixel + 1));
  for (int bin = range.x; bin <= range.y; bin++) {
    const float sum = weight_on(axis, bin, pixel);
    weights[bin * stride] = sum;
    if (sum != 0.0f) {
      if (last < 0) first = bin;
      last = bin;
    }
  }
}

struct Tile {
  int map, image, y, x;  // y and x of its first pixel
};

__device__ __forceinline__ Tile find_tile(const GatherParams& p, int index) {
  int map = 0;
  while (index >= p.tiles_before[map + 1]) map++;
  index -= p.tiles_before[map];
  const int per_image = p.tiles_h[map] * p.tiles_w[map], image = index / per_image;
  index -= image * per_image;
  const int row = index / p.tiles_w[map];
  return {map, image, row * kTileH, (index - row * p.tiles_w[map]) * kTileW};
}

template <class Kind>
__device__ void fill_batch(const GatherParams& p, const Tile& tile, GatherShared& shared, int begin, int size) {
  for (int task = static_cast<int>(threadIdx.x); task < size * (kTileH + kTileW); task += kThreads) {
    const int i = task / (kTileH + kTileW), line = task - i * (kTileH + kTileW);
    const RoiPlace roi = place_roi(p.roi, shared.hits[begin + i]);
    if (line < kTileH) {
      fill_weights(roi_axis<Kind>(p.roi, roi, tile.map, true), tile.y + line, row_weights(p.roi, i, 0) + line, kTileH,
                   shared.row_first[i][line], shared.row_last[i][line]);
    } else {
      const int column = line - kTileH;
      fill_weights(roi_axis<Kind>(p.roi, roi, tile.map, false), tile.x + column, column_weights(p.roi, i, 0) + column,
                   kTileW, shared.column_first[i][column], shared.column_last[i][column]);
    }
  }
}

// Adds a batch of RoIs to this warp's pixels: for every bin that reaches them, its gradient once.
template <class T, int V>
__device__ __forceinline__ void add_batch(const GatherParams& p, const GatherShared& shared, int begin, int size,
                                          int channel, float (&sum)[kPixels][V]) {
  const int warp = static_cast<int>(threadIdx.x / 32), row = warp * kPixels / kTileW, column = warp * kPixels % kTileW;
  const RoiParams& r = p.roi;
  for (int i = 0; i < size; i++) {
    int first = r.out_w, last = -1;
#pragma unroll
    for (int pixel = 0; pixel < kPixels; pixel++) {
      const int end = shared.column_last[i][column + pixel];
      if (end >= 0) first = min(first, shared.column_first[i][column + pixel]);
      last = max(last, end);
    }
    const int64_t k = shared.hits[begin + i];
    const T* grad = static_cast<const T*>(p.grad) + k * r.out_h * r.out_w * r.channels + channel;
    for (int ph = shared.row_first[i][row]; ph <= shared.row_last[i][row]; ph++) {
      const float weight_y = row_weights(r, i, ph)[row];
      for (int pw = first; pw <= last; pw++) {
        const Vector<T, V> raw = load_elements<T, V>(grad + static_cast<int64_t>(ph * r.out_w + pw) * r.channels);
        float value[V];
        load_floats<T, V>(raw, value);
        const float2 weight_x = *reinterpret_cast<const float2*>(column_weights(r, i, pw) + column);
        const float weights[kPixels] = {weight_y * weight_x.x, weight_y * weight_x.y};
#pragma unroll
        for (int pixel = 0; pixel < kPixels; pixel++)
          // A bin that misses the pixel adds nothing, even where its gradient is infinite.
          if (weights[pixel] != 0.0f)
#pragma unroll
            for (int c = 0; c < V; c++) sum[pixel][c] = fmaf(weights[pixel], value[c], sum[pixel][c]);
      }
    }
  }
}

template <class T, int V, class Kind>
__global__ void __launch_bounds__(kThreads, 2) roi_align_gather(const __grid_constant__ GatherParams p) {
  HTC_SHARED(GatherShared, shared);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int channel = (static_cast<int>(blockIdx.y) * 32 + lane) * V;
  const bool active = channel < p.roi.channels;
  const Tile tile = find_tile(p, static_cast<int>(blockIdx.x));
  const int group = tile.map * p.roi.images + tile.image;
  const int count = p.lists.counts[group];
  const Footprint* footprints = p.lists.footprints + p.lists.starts[group];
  const int row = tile.y / kTileH, column = tile.x / kTileW;
  float sum[kPixels][V] = {};
  for (int base = 0; base < count; base += kThreads) {
    bool hit = false;
    Footprint f{};
    if (base + static_cast<int>(threadIdx.x) < count) {
      f = footprints[base + threadIdx.x];
      hit = f.y0 <= row && row <= f.y1 && f.x0 <= column && column <= f.x1;
    }
    const Prefix<int> place = block_votes(shared.sort, hit);
    if (hit) shared.hits[place.before] = f.roi;
    __syncthreads();
    for (int begin = 0; begin < place.total; begin += p.batch) {
      const int size = min(p.batch, place.total - begin);
      fill_batch<Kind>(p, tile, shared, begin, size);
      __syncthreads();
      if (active) add_batch<T, V>(p, shared, begin, size, channel, sum);
      __syncthreads();
    }
  }
  if (!active) return;
  const Map& map = p.roi.maps[tile.map];
  const int y = tile.y + warp * kPixels / kTileW, x = tile.x + warp * kPixels % kTileW;
  T* out = static_cast<T*>(map.data) + tile.image * map.stride_n + channel * map.stride_c + y * map.stride_h;
#pragma unroll
  for (int pixel = 0; pixel < kPixels; pixel++)
    if (y < map.height && x + pixel < map.width) store_elements<T, V>(out + (x + pixel) * map.stride_w, sum[pixel]);
}

size_t weight_bytes(const RoiParams& p) { return sizeof(float) * (p.out_h * kTileH + p.out_w * kTileW); }
int groups(const RoiParams& p) { return (p.levels + (p.semantic >= 0)) * p.images; }

template <class T, int V, class Kind>
void run(const GatherParams& p, Stream stream) {
  const int maps = p.roi.levels + (p.roi.semantic >= 0);
  launch("sort_rois", sort_rois<Kind>, groups(p.roi), 1024, 0, stream, p.roi, p.lists);
  const dim3 grid(static_cast<unsigned>(p.tiles_before[maps]), ceil_div(p.roi.channels, 32 * V));
  launch("roi_align_gather", roi_align_gather<T, V, Kind>, grid, kThreads, weight_bytes(p.roi) * p.batch, stream, p);
}

template <class T>
void run_type(const GatherParams& p, bool precise, Stream stream) {
  const bool wide = vectorised(p.roi, p.grad, kVector<T>);
  if (precise) return wide ? run<T, kVector<T>, Precise>(p, stream) : run<T, 1, Precise>(p, stream);
  wide ? run<T, kVector<T>, Sampled>(p, stream) : run<T, 1, Sampled>(p, stream);
}

}  // namespace

int64_t roi_align_workspace(const RoiAlign& a) {
  const RoiParams p = roi_params(a);
  return groups(p) * 2 * sizeof(int32_t) + sizeof(Footprint) * (a.count * (a.has_semantic ? 2 : 1) + 1);
}

void roi_align_backward(const RoiAlign& a, void* workspace, Stream stream) {
  GatherParams p{roi_params(a), {}, a.out, {}, {}, {}, 0};
  if (p.roi.channels == 0) return;
  // 14 x 14 bins, the most that is usual, just fit 32 times into what needs no asking; more bins, fewer RoIs.
  p.batch = std::clamp(static_cast<int>(kSharedBatch / weight_bytes(p.roi)), 1, kBatch);
  const size_t lists = groups(p.roi);
  // Footprints first: they want the strictest alignment.
  p.lists.footprints = static_cast<Footprint*>(workspace);
  p.lists.counts = reinterpret_cast<int32_t*>(p.lists.footprints + a.count * (a.has_semantic ? 2 : 1));
  p.lists.starts = p.lists.counts + lists;
  for (int m = 0; m < p.roi.levels + (p.roi.semantic >= 0); m++) {
    p.tiles_h[m] = ceil_div(p.roi.maps[m].height, kTileH);
    p.tiles_w[m] = ceil_div(p.roi.maps[m].width, kTileW);
    p.tiles_before[m + 1] = p.tiles_before[m] + p.roi.images * p.tiles_h[m] * p.tiles_w[m];
  }
  switch (a.dtype) {
    case DType::f32: return run_type<float>(p, a.precise, stream);
    case DType::f16: return run_type<f16>(p, a.precise, stream);
    case DType::bf16: return run_type<bf16>(p, a.precise, stream);
    default: throw std::runtime_error("htc_fast: RoI pooling on CUDA takes float32, float16 or bfloat16 gradients");
  }
}

}  // namespace htc::cuda
