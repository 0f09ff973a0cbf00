// Precise RoI pooling's gradient to the boxes; the pooling itself and its gradient to the maps are RoIAlign's, with
// other weights. A bin changes with its box through the weights alone, so each pixel counts once: the product of map
// and gradient, summed over channels, times how the pixel's weight moves with each side of the box.
#include <atomic>

#include "cpu/roi_taps.h"
#include "cpu/simd.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// How each weight of an axis moves with the low and the high end of the box; in the order of AxisTaps::weights.
template <class Real>
std::vector<Interval<Real>> slopes(const AxisTaps<Real>& axis, Real low, Real high, Real scale, bool aligned) {
  const int bins = static_cast<int>(axis.bins.size());
  ExtentOf<Real> first = precise_extent(low, high, scale, aligned);
  first.length /= static_cast<Real>(bins);
  std::vector<Interval<Real>> out;
  out.reserve(axis.weights.size());
  for (int bin = 0; bin < bins; ++bin)
    for (int i = 0; i < axis.bins[bin].count; ++i)
      out.push_back(hat_mean_slopes(first, bin, bins, axis.bins[bin].first + i));
  return out;
}

// What one bin gives, in pixels of the map.
template <class Real>
struct Sides {
  Real x1, y1, x2, y2;
};

inline float total(Vec v) {
  float sum = 0;
  for (int i = 0; i < kWidth; ++i) sum += v[i];
  return sum;
}

// The sum over channels of map times gradient at one pixel. Four sums at once, since each waits for its last addition.
template <class T, class Sum>
Sum product(const T* pixel, int64_t stride, const Sum* grad, int64_t channels) {
  Sum sum = 0;
  int64_t c = 0;
  if constexpr (sizeof(T) < 8) {
    if (stride == 1) {
      Vec part[4] = {};
      for (; c + 4 * kWidth <= channels; c += 4 * kWidth)
        for (int v = 0; v < 4; ++v) part[v] = fma(load(pixel + c + v * kWidth), load(grad + c + v * kWidth), part[v]);
      for (; c + kWidth <= channels; c += kWidth) part[0] = fma(load(pixel + c), load(grad + c), part[0]);
      sum = total((part[0] + part[1]) + (part[2] + part[3]));
    }
    for (; c < channels; ++c) sum += to_float(pixel[c * stride]) * grad[c];
  } else {
    for (; c < channels; ++c) sum += pixel[c * stride] * grad[c];
  }
  return sum;
}

template <class T>
struct Worker {
  using Sum = SumOf<T>;
  const PrRoiPool& op;
  RoiTaps<Sum> roi;
  std::vector<Interval<Sum>> row_slopes, column_slopes;
  std::vector<Sum> grad;

  explicit Worker(const PrRoiPool& op) : op(op), grad(static_cast<size_t>(op.pool.channels)) {}

  void add_bin(int ph, int pw, Sides<Sum>& sides) const {
    const FeatureMap& map = *roi.map[0];
    const BinTaps &rows = roi.rows[0].bins[ph], &columns = roi.columns[0].bins[pw];
    const Sum *row_weights = roi.rows[0].of(rows), *column_weights = roi.columns[0].of(columns);
    const Interval<Sum>*along_y = row_slopes.data() + rows.weights, *along_x = column_slopes.data() + columns.weights;
    const T* base = static_cast<const T*>(map.data) + roi.image * map.stride_n + rows.first * map.stride_h +
                    columns.first * map.stride_w;
    for (int y = 0; y < rows.count; ++y)
      for (int x = 0; x < columns.count; ++x) {
        const T* pixel = base + y * map.stride_h + x * map.stride_w;
        const Sum sum = product(pixel, map.stride_c, grad.data(), op.pool.channels);
        sides.x1 += row_weights[y] * along_x[x].low * sum;
        sides.x2 += row_weights[y] * along_x[x].high * sum;
        sides.y1 += along_y[y].low * column_weights[x] * sum;
        sides.y2 += along_y[y].high * column_weights[x] * sum;
      }
  }

  void box(int64_t k, Sum* out) {
    const RoiAlign& pool = op.pool;
    roi.build(pool, k);
    Sides<Sum> sides{};
    if (roi.maps > 0) {
      const Sum scale = static_cast<Sum>(roi.map[0]->scale);
      row_slopes = slopes(roi.rows[0], roi.exact.y1, roi.exact.y2, scale, pool.aligned);
      column_slopes = slopes(roi.columns[0], roi.exact.x1, roi.exact.x2, scale, pool.aligned);
      const T* in = static_cast<const T*>(pool.out) + k * pool.out_h * pool.out_w * pool.channels;
      for (int ph = 0; ph < pool.out_h; ++ph)
        for (int pw = 0; pw < pool.out_w; ++pw, in += pool.channels) {
          if constexpr (sizeof(T) == 8) std::copy(in, in + pool.channels, grad.begin());
          else
            for (int64_t c = 0; c < pool.channels; ++c) grad[static_cast<size_t>(c)] = to_float(in[c]);
          add_bin(ph, pw, sides);
        }
      sides = {sides.x1 * scale, sides.y1 * scale, sides.x2 * scale, sides.y2 * scale};
    }
    if (pool.rois_per_image == 0) *out++ = 0;
    out[0] = sides.x1, out[1] = sides.y1, out[2] = sides.x2, out[3] = sides.y2;
  }
};

template <class T>
void run(const PrRoiPool& op, const Parallel& parallel) {
  const std::vector<int64_t> order = reading_order(op.pool);
  std::atomic<int64_t> next{0};
  constexpr int64_t kBatch = 8;
  const int64_t count = op.pool.count, columns = op.pool.rois_per_image ? 4 : 5;
  parallel((count + kBatch - 1) / kBatch, 1, [&](int64_t, int64_t) {
    Worker<T> worker(op);
    for (int64_t begin; (begin = next.fetch_add(kBatch)) < count;)
      for (int64_t i = begin; i < std::min(begin + kBatch, count); ++i) {
        const int64_t k = order[static_cast<size_t>(i)];
        worker.box(k, static_cast<SumOf<T>*>(op.grad) + k * columns);
      }
  });
}

}  // namespace

void pr_roi_pool_boxes(const PrRoiPool& op, const Parallel& parallel) {
  switch (op.pool.dtype) {
    case DType::f32: return run<float>(op, parallel);
    case DType::f16: return run<f16>(op, parallel);
    case DType::bf16: return run<bf16>(op, parallel);
    case DType::f64: return run<double>(op, parallel);
  }
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
