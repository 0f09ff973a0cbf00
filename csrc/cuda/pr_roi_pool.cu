// Precise RoI pooling's gradient to the boxes; the pooling itself and the maps' gradient are RoIAlign's kernels.
// A block owns a RoI, a warp one bin and one slice of channels at a time. Each lane works out how one pixel's weight
// moves with the sides of the box; then the warp reads pixel by pixel, all its channels together. Every sum has a fixed
// order, so the bits are the same every time.
#include "cuda/roi_geometry.cuh"

namespace htc::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kInFlight = 4;  // pixels a lane asks for before it uses the first

struct BoxesParams {
  RoiParams roi;
  const void* pooled;  // the output's gradient, [K, out_h, out_w, C] in memory
  float* grad;         // of the rois' shape
};

// What a pixel gives to the sides of the box, per unit of map times gradient; in pixels of the map.
struct Sides {
  float x1, y1, x2, y2;
};

struct BoxesShared {
  Sides weights[kWarps][32];
  int64_t offsets[kWarps][32];
  Sides sums[kWarps];
};

__device__ __forceinline__ Sides side_weights(const RoiAxis<Precise>& rows, const RoiAxis<Precise>& columns, int ph,
                                              int pw, int y, int x) {
  const float at_y = weight_on(rows, ph, y), at_x = weight_on(columns, pw, x);
  const Interval<float> along_y = hat_mean_slopes(Extent{rows.start, rows.length}, ph, rows.bins, y);
  const Interval<float> along_x = hat_mean_slopes(Extent{columns.start, columns.length}, pw, columns.bins, x);
  return {at_y * along_x.low, along_y.low * at_x, at_y * along_x.high, along_y.high * at_x};
}

// One bin's share for the channels from `start` on, V of them per lane; `grad` is theirs.
template <class T, int V>
__device__ __forceinline__ void add_bin(const Map& map, const RoiAxis<Precise>& rows, const RoiAxis<Precise>& columns,
                                        int ph, int pw, const T* start, bool active, const float (&grad)[V],
                                        BoxesShared& shared, Sides& sides) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const HatRange y = hat_pixels(bin_piece(rows, ph), rows.size), x = hat_pixels(bin_piece(columns, pw), columns.size);
  const int width = x.end - x.first, pixels = (y.end - y.first) * width;
  for (int begin = 0; begin < pixels; begin += 32) {
    const int mine = begin + lane, row = mine / width, column = mine - row * width;
    if (mine < pixels) {
      shared.weights[warp][lane] = side_weights(rows, columns, ph, pw, y.first + row, x.first + column);
      shared.offsets[warp][lane] = (y.first + row) * map.stride_h + (x.first + column) * map.stride_w;
    }
    __syncwarp();
    const int end = min(32, pixels - begin);
    for (int j = 0; j < end; j += kInFlight) {
      Vector<T, V> value[kInFlight];
#pragma unroll
      for (int u = 0; u < kInFlight; u++) {
        value[u] = Vector<T, V>{};
        if (active && j + u < end) value[u] = load_elements<T, V>(start + shared.offsets[warp][j + u]);
      }
#pragma unroll
      for (int u = 0; u < kInFlight; u++) {
        if (j + u >= end) break;
        float wide[V], product = 0.0f;
        load_floats<T, V>(value[u], wide);
#pragma unroll
        for (int c = 0; c < V; c++) product = fmaf(wide[c], grad[c], product);
        const Sides weight = shared.weights[warp][j + u];
        sides.x1 = fmaf(weight.x1, product, sides.x1);
        sides.y1 = fmaf(weight.y1, product, sides.y1);
        sides.x2 = fmaf(weight.x2, product, sides.x2);
        sides.y2 = fmaf(weight.y2, product, sides.y2);
      }
    }
    __syncwarp();
  }
}

__device__ __forceinline__ float warp_sum(float value) {
  for (int flip = 16; flip > 0; flip /= 2) value += __shfl_xor_sync(~0u, value, flip);
  return value;
}

// Adds up what all threads have and writes the RoI's row.
__device__ __forceinline__ void write_row(const BoxesParams& p, int64_t k, float scale, Sides sides,
                                          BoxesShared& shared) {
  sides = {warp_sum(sides.x1), warp_sum(sides.y1), warp_sum(sides.x2), warp_sum(sides.y2)};
  if (threadIdx.x % 32 == 0) shared.sums[threadIdx.x / 32] = sides;
  __syncthreads();
  if (threadIdx.x != 0) return;
  Sides sum{};
  for (const Sides& one : shared.sums) sum = {sum.x1 + one.x1, sum.y1 + one.y1, sum.x2 + one.x2, sum.y2 + one.y2};
  const bool has_image = p.roi.rois_per_image == 0;
  float* row = p.grad + k * (has_image ? 5 : 4);
  if (has_image) *row++ = 0.0f;
  row[0] = sum.x1 * scale;
  row[1] = sum.y1 * scale;
  row[2] = sum.x2 * scale;
  row[3] = sum.y2 * scale;
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 3) pr_roi_pool_boxes(const __grid_constant__ BoxesParams p) {
  HTC_SHARED(BoxesShared, shared);
  const RoiParams& r = p.roi;
  const int64_t k = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const RoiPlace roi = place_roi(r, k);
  const Map& map = r.maps[roi.level];
  Sides sides{};
  if (roi.valid) {
    const RoiAxis<Precise> rows = roi_axis<Precise>(r, roi, roi.level, true);
    const RoiAxis<Precise> columns = roi_axis<Precise>(r, roi, roi.level, false);
    const int bins = r.out_h * r.out_w, slices = ceil_div(r.channels, 32 * V);
    for (int task = warp; task < bins * slices; task += kWarps) {
      const int bin = task / slices, channel = ((task - bin * slices) * 32 + lane) * V;
      const bool active = channel < r.channels;
      float grad[V] = {};
      if (active)
        load_floats<T, V>(
            load_elements<T, V>(static_cast<const T*>(p.pooled) + (k * bins + bin) * r.channels + channel), grad);
      const T* start = static_cast<const T*>(map.data) + roi.image * map.stride_n + channel * map.stride_c;
      add_bin<T, V>(map, rows, columns, bin / r.out_w, bin % r.out_w, start, active, grad, shared, sides);
    }
  }
  write_row(p, k, map.scale, sides, shared);
}

template <class T>
void run_type(const BoxesParams& p, Stream stream) {
  const bool wide = vectorised(p.roi, p.pooled, kVector<T>);
  launch("pr_roi_pool_boxes", wide ? pr_roi_pool_boxes<T, kVector<T>> : pr_roi_pool_boxes<T, 1>,
         static_cast<unsigned>(p.roi.count), kThreads, 0, stream, p);
}

}  // namespace

void pr_roi_pool_boxes(const PrRoiPool& a, Stream stream) {
  if (a.pool.count == 0) return;
  const BoxesParams p{roi_params(a.pool), a.pool.out, static_cast<float*>(a.grad)};
  switch (a.pool.dtype) {
    case DType::f32: return run_type<float>(p, stream);
    case DType::f16: return run_type<f16>(p, stream);
    case DType::bf16: return run_type<bf16>(p, stream);
    default: throw std::runtime_error("htc_fast: pr_roi_pool on CUDA takes float32, float16 or bfloat16 features");
  }
}

}  // namespace htc::cuda
