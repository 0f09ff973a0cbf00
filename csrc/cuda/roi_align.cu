// RoIAlign forward over all levels, and the semantic map, in one launch.
// A block owns some bins of one RoI and one slice of channels; a group of lanes owns a bin, each lane a 16-byte vector
// of channels. Since weights are separable, samples that fall on the same pixels are merged along each axis first: a
// bin of n x n samples reads about (n + 1)^2 pixels instead of 4 n^2. Precise pooling is the same with other weights.
#include <algorithm>

#include "cuda/roi_geometry.cuh"

namespace htc::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 4;  // pixels a lane asks for before it uses the first

struct ForwardParams {
  RoiParams roi;
  void* out;  // [K, out_h, out_w, C]
  int room;   // weights per table line
  int bins_per_block;
};

// Sums a bin's pixels on one map. Every lane of the group works out one pixel's place and weight and hands it to the
// others, so that the group reads one pixel at a time, all its channels together.
template <class T, int V, class Kind>
__device__ __forceinline__ void add_bin(const RoiParams& p, int image, int index, int ph, int pw, TableLine y,
                                        TableLine x, int channel, bool active, float (&sum)[V]) {
  const Map& map = p.maps[index];
  const T* start = static_cast<const T*>(map.data) + image * map.stride_n + channel * map.stride_c;
  // Vectors of one image fit into 32 bits; single elements of a huge map with odd channels do not.
  using Offset = std::conditional_t<V == 1, uint64_t, uint32_t>;
  const auto step_y = static_cast<Offset>(map.stride_h / V), step_x = static_cast<Offset>(map.stride_w / V);
  const int lanes = static_cast<int>(blockDim.x), first_lane = static_cast<int>(threadIdx.y) * lanes % 32;
  const int pixels = y.count * x.count;
  const int most = __reduce_max_sync(~0u, pixels);  // the groups of a warp shuffle together
  for (int begin = 0; begin < most; begin += lanes) {
    const int mine = begin + static_cast<int>(threadIdx.x);
    Offset offset = 0;
    float weight = 0.0f;
    if (mine < pixels) {
      const int row = mine / x.count;
      const PixelWeight at_y = pixel_at<Kind>(p, blockIdx.x, index, true, ph, y, row);
      const PixelWeight at_x = pixel_at<Kind>(p, blockIdx.x, index, false, pw, x, mine - row * x.count);
      offset = static_cast<Offset>(at_y.pixel) * step_y + static_cast<Offset>(at_x.pixel) * step_x;
      weight = at_y.weight * at_x.weight;
    }
    const int end = min(lanes, most - begin);
    for (int j = 0; j < end; j += kInFlight) {
      Vector<T, V> value[kInFlight];
      float w[kInFlight];
#pragma unroll
      for (int u = 0; u < kInFlight; u++) {
        const Offset at = __shfl_sync(~0u, offset, first_lane + j + u);
        w[u] = __shfl_sync(~0u, weight, first_lane + j + u);
        // Nothing is read for a weight of zero: zero times an infinite pixel would be NaN.
        value[u] = Vector<T, V>{};
        if (active && w[u] != 0.0f) value[u] = load_elements<T, V>(start + static_cast<uint64_t>(at) * V);
      }
#pragma unroll
      for (int u = 0; u < kInFlight; u++) multiply_add<T, V>(w[u], value[u], sum);
    }
  }
}

template <class T, int V, class Kind>
__global__ void __launch_bounds__(kThreads, 3) roi_align_forward(const __grid_constant__ ForwardParams p) {
  const RoiParams& r = p.roi;
  const int64_t k = blockIdx.x;
  const int channel = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * V;
  const bool active = channel < r.channels;
  const int first_bin = static_cast<int>(blockIdx.z) * p.bins_per_block;
  const int bins = min(first_bin + p.bins_per_block, r.out_h * r.out_w);
  const RoiPlace roi = place_roi(r, k);
  const RoiTables<Kind> tables{dynamic_shared<int2>(), r.out_h, r.out_w, p.room};
  if (roi.valid) tables.fill(r, roi, threadIdx.y * blockDim.x + threadIdx.x, kThreads);
  __syncthreads();
  // Every group of a warp goes round equally often, with bins to do or not: they shuffle together.
  for (int base = first_bin; base < bins; base += static_cast<int>(blockDim.y)) {
    const int bin = base + static_cast<int>(threadIdx.y), ph = bin / r.out_w, pw = bin - ph * r.out_w;
    float sum[V] = {};
    for (int slot = 0; roi.valid && slot < (r.semantic >= 0 ? 2 : 1); slot++) {
      TableLine y{}, x{};
      if (bin < bins) {
        y = tables.line(slot, true, ph);
        x = tables.line(slot, false, pw);
      }
      add_bin<T, V, Kind>(r, roi.image, slot == 0 ? roi.level : r.semantic, ph, pw, y, x, channel, active, sum);
    }
    if (active && bin < bins)
      store_elements<T, V>(static_cast<T*>(p.out) + (k * r.out_h * r.out_w + bin) * r.channels + channel, sum);
  }
}

template <class T, int V, class Kind>
void run(const RoiAlign& a, Stream stream) {
  ForwardParams p{roi_params(a), a.out, 0, 0};
  const int channels = p.roi.channels, bins = a.out_h * a.out_w;
  p.room = table_room(p.roi);
  int lanes = 32;
  while (lanes > 8 && lanes / 2 * V >= channels) lanes /= 2;
  const int groups = kThreads / lanes, slices = ceil_div(channels, lanes * V);
  // Two blocks per RoI even out unequal costs; where RoIs are few, more of them fill the machine.
  const int64_t wanted = std::max<int64_t>(2, 4096 / (a.count * slices));
  p.bins_per_block = ceil_div(bins, static_cast<int>(std::min<int64_t>(wanted, ceil_div(bins, groups))));
  const dim3 block(lanes, groups), grid(static_cast<unsigned>(a.count), slices, ceil_div(bins, p.bins_per_block));
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
