// RoIAlign forward. With channels side by side a bin's channels stay in registers while its pixels stream by; RoIs run
// in parallel, a few at a time from a common queue, since their costs differ.
#include <atomic>

#include "cpu/roi_taps.h"
#include "cpu/simd.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// NV vectors of channels of one bin.
template <class T, int NV>
void bin_vectors(const RoiTaps<float>& roi, int ph, int pw, int64_t channel, T* out) {
  Vec sum[NV] = {};
  for (int m = 0; m < roi.maps; ++m) {
    const FeatureMap& map = *roi.map[m];
    const BinTaps &rows = roi.rows[m].bins[ph], &columns = roi.columns[m].bins[pw];
    const float *row_weights = roi.rows[m].of(rows), *column_weights = roi.columns[m].of(columns);
    const T* base = static_cast<const T*>(map.data) + roi.image * map.stride_n + rows.first * map.stride_h +
                    columns.first * map.stride_w + channel;
    for (int y = 0; y < rows.count; ++y, base += map.stride_h) {
      const T* pixel = base;
      for (int x = 0; x < columns.count; ++x, pixel += map.stride_w) {
        const float weight = row_weights[y] * column_weights[x];
        for (int v = 0; v < NV; ++v) sum[v] = fma(load(pixel + v * kWidth), weight, sum[v]);
      }
    }
  }
  for (int v = 0; v < NV; ++v) store(out + v * kWidth, sum[v]);
}

// Any element type, channel by channel.
template <class T, class Sum>
void bin_channels(const RoiTaps<Sum>& roi, int ph, int pw, int64_t begin, int64_t end, T* out) {
  for (int64_t channel = begin; channel < end; ++channel) {
    Sum sum = 0;
    for (int m = 0; m < roi.maps; ++m) {
      const FeatureMap& map = *roi.map[m];
      const BinTaps &rows = roi.rows[m].bins[ph], &columns = roi.columns[m].bins[pw];
      const Sum *row_weights = roi.rows[m].of(rows), *column_weights = roi.columns[m].of(columns);
      const T* base = static_cast<const T*>(map.data) + roi.image * map.stride_n + channel * map.stride_c +
                      rows.first * map.stride_h + columns.first * map.stride_w;
      for (int y = 0; y < rows.count; ++y)
        for (int x = 0; x < columns.count; ++x) {
          const Sum weight = row_weights[y] * column_weights[x];
          if constexpr (sizeof(Sum) == 8) sum += weight * base[y * map.stride_h + x * map.stride_w];
          else sum += weight * to_float(base[y * map.stride_h + x * map.stride_w]);
        }
    }
    if constexpr (sizeof(Sum) == 8) out[channel] = sum;
    else from_float(sum, out + channel);
  }
}

// What a RoI reads in every plane of channels alike, bin by bin.
template <class Sum>
struct PlaneTaps {
  std::vector<int64_t> offsets;
  std::vector<Sum> weights;
  std::vector<size_t> ends;  // of each bin's taps in each map

  void build(const RoiTaps<Sum>& roi, int out_h, int out_w) {
    offsets.clear(), weights.clear(), ends.clear();
    for (int ph = 0; ph < out_h; ++ph)
      for (int pw = 0; pw < out_w; ++pw)
        for (int m = 0; m < roi.maps; ++m) {
          const FeatureMap& map = *roi.map[m];
          const BinTaps &rows = roi.rows[m].bins[ph], &columns = roi.columns[m].bins[pw];
          const Sum *row_weights = roi.rows[m].of(rows), *column_weights = roi.columns[m].of(columns);
          for (int y = 0; y < rows.count; ++y)
            for (int x = 0; x < columns.count; ++x) {
              offsets.push_back((rows.first + y) * map.stride_h + (columns.first + x) * map.stride_w);
              weights.push_back(row_weights[y] * column_weights[x]);
            }
          ends.push_back(offsets.size());
        }
  }
};

// Channels apart in memory: plane by plane, since a plane's pixels are neighbours.
template <class T, class Sum>
void roi_planes(const RoiTaps<Sum>& roi, const PlaneTaps<Sum>& taps, int64_t bins, int64_t channels, T* out) {
  for (int64_t channel = 0; channel < channels; ++channel) {
    const T* plane[2];
    for (int m = 0; m < roi.maps; ++m)
      plane[m] =
          static_cast<const T*>(roi.map[m]->data) + roi.image * roi.map[m]->stride_n + channel * roi.map[m]->stride_c;
    size_t tap = 0;
    const size_t* end = taps.ends.data();
    for (int64_t bin = 0; bin < bins; ++bin) {
      Sum sum = 0;
      for (int m = 0; m < roi.maps; ++m, ++end)
        for (; tap < *end; ++tap) {
          if constexpr (sizeof(Sum) == 8) sum += taps.weights[tap] * plane[m][taps.offsets[tap]];
          else sum += taps.weights[tap] * to_float(plane[m][taps.offsets[tap]]);
        }
      if constexpr (sizeof(Sum) == 8) out[bin * channels + channel] = sum;
      else from_float(sum, out + bin * channels + channel);
    }
  }
}

template <class T>
void bin_any(const RoiTaps<SumOf<T>>& roi, int ph, int pw, int64_t channels, T* out) {
  int64_t channel = 0;
  if constexpr (sizeof(T) < 8) {
    for (; channel + kRegisters * kWidth <= channels; channel += kRegisters * kWidth)
      bin_vectors<T, kRegisters>(roi, ph, pw, channel, out + channel);
    for (; channel + 4 * kWidth <= channels; channel += 4 * kWidth)
      bin_vectors<T, 4>(roi, ph, pw, channel, out + channel);
    for (; channel + kWidth <= channels; channel += kWidth) bin_vectors<T, 1>(roi, ph, pw, channel, out + channel);
  }
  bin_channels<T, SumOf<T>>(roi, ph, pw, channel, channels, out);
}

template <class T>
void forward(const RoiAlign& op, const Parallel& parallel) {
  const std::vector<int64_t> order = reading_order(op);
  bool dense = true;
  for (int m = 0; m < op.levels + op.has_semantic; ++m) dense = dense && op.maps[m].stride_c == 1;
  std::atomic<int64_t> next{0};
  constexpr int64_t kBatch = 8;
  const int64_t bins = static_cast<int64_t>(op.out_h) * op.out_w;
  parallel((op.count + kBatch - 1) / kBatch, 1, [&](int64_t, int64_t) {
    RoiTaps<SumOf<T>> roi;
    PlaneTaps<SumOf<T>> taps;
    for (int64_t begin; (begin = next.fetch_add(kBatch)) < op.count;)
      for (int64_t i = begin; i < std::min(begin + kBatch, op.count); ++i) {
        const int64_t k = order[static_cast<size_t>(i)];
        T* out = static_cast<T*>(op.out) + k * bins * op.channels;
        roi.build(op, k);
        if (roi.maps == 0) {
          std::memset(static_cast<void*>(out), 0, static_cast<size_t>(bins * op.channels) * sizeof(T));
          continue;
        }
        if (!dense) {
          taps.build(roi, op.out_h, op.out_w);
          roi_planes<T>(roi, taps, bins, op.channels, out);
          continue;
        }
        for (int ph = 0; ph < op.out_h; ++ph)
          for (int pw = 0; pw < op.out_w; ++pw, out += op.channels) bin_any(roi, ph, pw, op.channels, out);
      }
  });
}

}  // namespace

void roi_align(const RoiAlign& op, const Parallel& parallel) {
  switch (op.dtype) {
    case DType::f32: return forward<float>(op, parallel);
    case DType::f16: return forward<f16>(op, parallel);
    case DType::bf16: return forward<bf16>(op, parallel);
    case DType::f64: return forward<double>(op, parallel);
  }
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
