// RoIAlign backward, the scattering way: every bin adds its gradient to its pixels atomically, into fp32 maps that
// start at zero. The sum's order, and so its last bits, change from run to run; roi_align_backward.cu is what runs by
// default.
#include <algorithm>

#include "cuda/roi_tables.cuh"

namespace htc::cuda {
namespace {

constexpr int kThreads = 256;

struct ScatterParams {
  RoiParams roi;
  const void* grad;  // [K, out_h, out_w, C] in memory
  int room;
};

template <int V>
__device__ __forceinline__ void add_to(float* address, float weight, const float (&value)[V]) {
  if constexpr (V == 1) {
    atomicAdd(address, weight * value[0]);
  } else {
#pragma unroll
    for (int i = 0; i < V; i += 4)
      add4(address + i, weight * value[i], weight * value[i + 1], weight * value[i + 2], weight * value[i + 3]);
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kThreads, 3) roi_align_scatter(const __grid_constant__ ScatterParams p) {
  const RoiParams& r = p.roi;
  const int64_t k = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int channel = (static_cast<int>(blockIdx.y) * 32 + lane) * V;
  const RoiPlace roi = place_roi(r, k);
  if (!roi.valid) return;
  const RoiTables<Sampled> tables{dynamic_shared<int2>(), r.out_h, r.out_w, p.room};
  tables.fill(r, roi, static_cast<int>(threadIdx.x), kThreads);
  __syncthreads();
  if (channel >= r.channels) return;
  for (int bin = warp; bin < r.out_h * r.out_w; bin += kThreads / 32) {
    const int ph = bin / r.out_w, pw = bin - ph * r.out_w;
    const T* grad = static_cast<const T*>(p.grad) + (k * r.out_h * r.out_w + bin) * r.channels + channel;
    float value[V];
    load_floats<T, V>(load_elements<T, V>(grad), value);
    for (int slot = 0; slot < (r.semantic >= 0 ? 2 : 1); slot++) {
      const int index = slot == 0 ? roi.level : r.semantic;
      const Map& map = r.maps[index];
      float* start = static_cast<float*>(map.data) + roi.image * map.stride_n + channel * map.stride_c;
      const TableLine y = table_line(tables.at(slot, true, ph)), x = table_line(tables.at(slot, false, pw));
      for (int iy = 0; iy < y.count; iy++) {
        const PixelWeight at_y = pixel_at<Sampled>(r, k, index, true, ph, y, iy);
        for (int ix = 0; ix < x.count; ix++) {
          const PixelWeight at_x = pixel_at<Sampled>(r, k, index, false, pw, x, ix);
          const float weight = at_y.weight * at_x.weight;
          if (weight != 0.0f) add_to<V>(start + at_y.place * map.stride_h + at_x.place * map.stride_w, weight, value);
        }
      }
    }
  }
}

template <class T, int V>
void run(const RoiAlign& a, Stream stream) {
  const RoiParams r = roi_params(a);
  ScatterParams p{r, a.out, table_room(r)};
  const dim3 grid(static_cast<unsigned>(r.count), ceil_div(r.channels, 32 * V));
  launch("roi_align_scatter", roi_align_scatter<T, V>, grid, kThreads, RoiTables<Sampled>::bytes(r, p.room), stream, p);
}

template <class T>
void run_type(const RoiAlign& a, Stream stream) {
  vectorised(roi_params(a), a.out, kVector<T>) ? run<T, kVector<T>>(a, stream) : run<T, 1>(a, stream);
}

}  // namespace

void roi_align_scatter(const RoiAlign& a, Stream stream) {
  if (a.count == 0 || a.channels == 0) return;
  switch (a.dtype) {
    case DType::f32: return run_type<float>(a, stream);
    case DType::f16: return run_type<f16>(a, stream);
    case DType::bf16: return run_type<bf16>(a, stream);
    default: throw std::runtime_error("htc_fast: roi_align on CUDA takes float32, float16 or bfloat16 gradients");
  }
}

}  // namespace htc::cuda
