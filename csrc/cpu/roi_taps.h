// Which pixels every bin of a RoI reads, and with which weights. A bin's mean over bilinear samples is separable, so
// each axis has its own short list: neighbouring pixels, the weights of all samples that fall on them summed up.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "geometry.h"
#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

// The pixels first .. first + count - 1 of one bin along one axis.
struct BinTaps {
  int first, count;
  size_t weights;  // where they start in AxisTaps::weights
};

template <class Real>
struct AxisTaps {
  std::vector<BinTaps> bins;
  std::vector<Real> weights;
  int first = 0, end = 0;  // all pixels that any bin reads

  const Real* of(const BinTaps& bin) const { return weights.data() + bin.weights; }

  // `grid` sub-bins from extent.start on, averaged into `wanted` bins.
  void build(Extent extent, int size, int grid, int wanted, int sampling_ratio) {
    bins.clear();
    weights.clear();
    first = size, end = 0;
    const float length = extent.length / static_cast<float>(grid);
    const int samples = sample_count(length, sampling_ratio);
    for (int bin = 0; bin < wanted; ++bin) {
      const int from = bin * grid / wanted, to = ((bin + 1) * grid + wanted - 1) / wanted;
      low = size, high = -1;
      for (int pass = 0; pass < 2; ++pass) {
        if (pass == 1) {
          bins.push_back({low, std::max(high - low + 1, 0), weights.size()});
          weights.resize(weights.size() + static_cast<size_t>(bins.back().count), Real(0));
        }
        for (int sub = from; sub < to; ++sub)
          visit(extent.start + static_cast<float>(sub) * length, length, samples, size, pass,
                1.0f / (static_cast<float>(samples) * static_cast<float>(to - from)));
      }
      if (high >= low) first = std::min(first, low), end = std::max(end, high + 1);
    }
  }

  // The same for bins that are integrated instead of sampled.
  void build_precise(ExtentOf<Real> extent, int size, int wanted) {
    bins.clear();
    weights.clear();
    first = size, end = 0;
    extent.length /= static_cast<Real>(wanted);
    for (int bin = 0; bin < wanted; ++bin) {
      const Interval<Real> over = precise_bin(extent, bin);
      const HatRange range = hat_pixels(over, size);
      bins.push_back({range.first, range.end - range.first, weights.size()});
      for (int pixel = range.first; pixel < range.end; ++pixel) weights.push_back(hat_mean(over, pixel));
      if (range.end > range.first) first = std::min(first, range.first), end = std::max(end, range.end);
    }
  }

 private:
  int low = 0, high = -1;

  // First pass: the range of pixels; second pass: their weights.
  void visit(float base, float length, int samples, int size, int pass, float weight) {
    int begin = 0, stop = samples;
    if (samples > 8) {
      // Only samples that can fall on the map, so that a gigantic box costs no gigantic loop.
      const double step = static_cast<double>(length) / samples;
      const double a = (-1.0 - base) / step, b = (static_cast<double>(size) - base) / step;
      begin = static_cast<int>(std::clamp(std::floor(std::min(a, b)) - 2.0, 0.0, static_cast<double>(samples)));
      stop = static_cast<int>(std::clamp(std::ceil(std::max(a, b)) + 2.0, 0.0, static_cast<double>(samples)));
    }
    for (int i = begin; i < stop; ++i) {
      const Tap tap = tap_at(base + (static_cast<float>(i) + 0.5f) * length / static_cast<float>(samples), size);
      if (tap.low < 0) continue;
      if (pass == 0) {
        low = std::min(low, tap.low);
        high = std::max(high, tap.fraction > 0.0f ? tap.high : tap.low);
      } else {
        Real* out = weights.data() + bins.back().weights - bins.back().first;
        out[tap.low] += weight * (1.0f - tap.fraction);
        if (tap.fraction > 0.0f) out[tap.high] += weight * tap.fraction;
      }
    }
  }
};

// One box in the type that its weights are worked out in.
template <class Real>
struct BoxOf {
  Real x1, y1, x2, y2;
};

// A RoI's taps on its pyramid level and, second, on the semantic map.
template <class Real>
struct RoiTaps {
  int image = 0, maps = 0;
  const FeatureMap* map[2];
  AxisTaps<Real> rows[2], columns[2];
  BoxOf<Real> exact;

  // Leaves maps = 0 for a box that is not finite: it reads nothing.
  void build(const RoiAlign& op, int64_t k) {
    const float* row = op.rois + k * (op.rois_per_image ? 4 : 5);
    const float number = op.rois_per_image ? static_cast<float>(k / op.rois_per_image) : *row++;
    const Box box{row[0], row[1], row[2], row[3]};
    maps = 0;
    if (!is_finite(box) || !(number >= 0.0f && number < static_cast<float>(op.images))) return;
    image = static_cast<int>(op.rois_per_image ? k / op.rois_per_image : static_cast<int64_t>(number));
    exact = {static_cast<Real>(box.x1), static_cast<Real>(box.y1), static_cast<Real>(box.x2),
             static_cast<Real>(box.y2)};
    if constexpr (sizeof(Real) == 8)
      if (op.exact_rois) {
        const Real* wide = op.exact_rois + (row - op.rois);
        exact = {wide[0], wide[1], wide[2], wide[3]};
      }
    add(op, op.maps[pyramid_level(box, op.finest_size, op.levels)], box, op.out_h, op.out_w);
    if (op.has_semantic) add(op, op.maps[op.levels], box, op.semantic_grid, op.semantic_grid);
  }

 private:
  void add(const RoiAlign& op, const FeatureMap& target, Box box, int grid_h, int grid_w) {
    map[maps] = &target;
    if (op.precise) {
      const Real scale = static_cast<Real>(target.scale);
      rows[0].build_precise(precise_extent(exact.y1, exact.y2, scale, op.aligned), static_cast<int>(target.height),
                            grid_h);
      columns[0].build_precise(precise_extent(exact.x1, exact.x2, scale, op.aligned), static_cast<int>(target.width),
                               grid_w);
      maps = 1;
      return;
    }
    rows[maps].build(roi_extent(box.y1, box.y2, target.scale, op.aligned), static_cast<int>(target.height), grid_h,
                     op.out_h, op.sampling_ratio);
    columns[maps].build(roi_extent(box.x1, box.x2, target.scale, op.aligned), static_cast<int>(target.width), grid_w,
                        op.out_w, op.sampling_ratio);
    ++maps;
  }
};

// RoIs in an order that reads a map's neighbourhoods together: by image, level, then along a Z curve.
inline std::vector<int64_t> reading_order(const RoiAlign& op) {
  std::vector<std::pair<uint64_t, int64_t>> keys(static_cast<size_t>(op.count));
  for (int64_t k = 0; k < op.count; ++k) {
    const float* row = op.rois + k * (op.rois_per_image ? 4 : 5);
    const float number = op.rois_per_image ? static_cast<float>(k / op.rois_per_image) : *row++;
    const Box box{row[0], row[1], row[2], row[3]};
    uint64_t key = ~uint64_t{0};
    if (is_finite(box) && number >= 0.0f) {
      const uint64_t level = static_cast<uint64_t>(pyramid_level(box, op.finest_size, op.levels));
      const auto cell = [&](float a, float b) {
        return static_cast<uint64_t>(std::clamp((a + b) * 0.5f * op.maps[level].scale / 8.0f, 0.0f, 65535.0f));
      };
      const uint64_t x = cell(box.x1, box.x2), y = cell(box.y1, box.y2);
      key = static_cast<uint64_t>(number) << 40 | level << 36;
      for (int bit = 0; bit < 16; ++bit) key |= (x >> bit & 1) << (2 * bit) | (y >> bit & 1) << (2 * bit + 1);
    }
    keys[static_cast<size_t>(k)] = {key, k};
  }
  std::sort(keys.begin(), keys.end());
  std::vector<int64_t> order(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) order[i] = keys[i].second;
  return order;
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
