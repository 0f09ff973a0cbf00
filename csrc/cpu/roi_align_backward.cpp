// RoIAlign backward. Channels, not RoIs, run in parallel: RoIs overlap, channels never do, so nothing is atomic and the
// order of every sum is fixed. Per RoI the columns are spread first, so that every pixel is touched once.
#include "cpu/roi_taps.h"
#include "cpu/simd.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

constexpr int64_t kBlock = 8 * kWidth;  // channels that one pass spreads

template <class Sum, class T>
inline void widen(const void* p, int64_t at, int64_t count, Sum* out) {
  const T* in = static_cast<const T*>(p) + at;
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (sizeof(T) == 8) out[i] = in[i];
    else out[i] = to_float(in[i]);
  }
}

// count gradients of any type from element `at` on.
template <class Sum>
inline void widen(const RoiAlign& op, int64_t at, int64_t count, Sum* out) {
  switch (op.dtype) {
    case DType::f16: return widen<Sum, f16>(op.out, at, count, out);
    case DType::bf16: return widen<Sum, bf16>(op.out, at, count, out);
    case DType::f64: return widen<Sum, double>(op.out, at, count, out);
    default: return widen<Sum, float>(op.out, at, count, out);
  }
}

// out[i] += weight * in[i]
inline void add_scaled(float* out, const float* in, float weight, int64_t count) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(out + i, fma(load(in + i), weight, load(out + i)));
  for (; i < count; ++i) out[i] += weight * in[i];
}
inline void add_scaled(double* out, const double* in, double weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] += weight * in[i];
}

// Adds one RoI's gradient of channels begin .. begin + count - 1 to one map.
template <class Sum>
void spread(const RoiAlign& op, const RoiTaps<Sum>& roi, int m, int64_t k, int64_t begin, int64_t count,
            std::vector<Sum>& grad, std::vector<Sum>& columns) {
  const FeatureMap& map = *roi.map[m];
  const AxisTaps<Sum>&rows = roi.rows[m], &across = roi.columns[m];
  const int64_t width = across.end - across.first;
  if (width <= 0 || rows.end <= rows.first) return;
  columns.assign(static_cast<size_t>(op.out_h * width * count), Sum(0));
  for (int ph = 0; ph < op.out_h; ++ph)
    for (int pw = 0; pw < op.out_w; ++pw) {
      const int64_t at = ((k * op.out_h + ph) * op.out_w + pw) * op.channels + begin;
      widen(op, at, count, grad.data());
      const BinTaps& taps = across.bins[pw];
      Sum* line = columns.data() + (ph * width + taps.first - across.first) * count;
      for (int x = 0; x < taps.count; ++x) add_scaled(line + x * count, grad.data(), across.of(taps)[x], count);
    }
  Sum* base = static_cast<Sum*>(map.data) + roi.image * map.stride_n + across.first * map.stride_w + begin;
  for (int ph = 0; ph < op.out_h; ++ph) {
    const BinTaps& taps = rows.bins[ph];
    for (int y = 0; y < taps.count; ++y) {
      Sum* line = base + (taps.first + y) * map.stride_h;
      const Sum weight = rows.of(taps)[y];
      for (int64_t x = 0; x < width; ++x)
        add_scaled(line + x * map.stride_w, columns.data() + (ph * width + x) * count, weight, count);
    }
  }
}

template <class Sum>
void backward(const RoiAlign& op, const Parallel& parallel) {
  for (int m = 0; !op.add && m < op.levels + op.has_semantic; ++m) {
    Sum* data = static_cast<Sum*>(op.maps[m].data);
    const int64_t size = op.images * op.maps[m].height * op.maps[m].width * op.channels;
    parallel(size, 1 << 16, [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, Sum(0)); });
  }
  const std::vector<int64_t> order = reading_order(op);
  parallel((op.channels + kWidth - 1) / kWidth, 1, [&](int64_t first, int64_t last) {
    RoiTaps<Sum> roi;
    std::vector<Sum> grad(static_cast<size_t>(kBlock)), columns;
    const int64_t end = std::min(last * kWidth, op.channels);
    for (int64_t k : order) {
      roi.build(op, k);
      for (int64_t begin = first * kWidth; begin < end; begin += kBlock)
        for (int m = 0; m < roi.maps; ++m) spread(op, roi, m, k, begin, std::min(kBlock, end - begin), grad, columns);
    }
  });
}

}  // namespace

void roi_align_backward(const RoiAlign& op, const Parallel& parallel) {
  if (op.dtype == DType::f64) return backward<double>(op, parallel);
  return backward<float>(op, parallel);
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
