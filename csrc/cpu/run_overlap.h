// What two masks share, from their runs. Most masks have one or two runs in a column: then they lie as layers, the j-th
// run of every column, and two layers are compared column by column, many at once. What is more frayed than that, or
// spans columns without an end, is walked run by run.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

using Run = std::pair<int64_t, int64_t>;
using RunSpan = std::span<const Run>;

inline RunSpan runs_of(const RunMasks& masks, int64_t k) {
  const Run* all = reinterpret_cast<const Run*>(masks.runs);
  return {all + masks.offsets[k], all + masks.offsets[k + 1]};
}

// In pixels, x2 and y2 outside; all 0 where there is none.
struct PixelBox {
  int32_t x1 = 0, y1 = 0, x2 = 0, y2 = 0;

  int64_t shared_with(const PixelBox& other) const {
    const int64_t w = std::min(x2, other.x2) - std::max(x1, other.x1);
    const int64_t h = std::min(y2, other.y2) - std::max(y1, other.y1);
    return w > 0 && h > 0 ? w * h : 0;
  }
};

// The rows [low[i], high[i]) that one run covers in column `first` + i, both 0 where there is none.
struct Layer {
  int32_t first, columns;
  const int32_t *low, *high;
};

class MaskShape {
 public:
  static constexpr size_t kMostLayers = 8;

  PixelBox box;
  int64_t area = 0;
  RunSpan runs;
  size_t layers = 0;  // 0 where runs are walked

  MaskShape() = default;
  MaskShape(RunSpan given, int64_t height, int64_t width) : runs(given) {
    if (runs.empty()) return;
    const int64_t first = runs.front().first / height, columns = (runs.back().second - 1) / height + 1 - first;
    box = {static_cast<int32_t>(first), 0, static_cast<int32_t>(first + columns), static_cast<int32_t>(height)};
    columns_ = static_cast<size_t>(columns);
    // Sums of a column's 32 bits must hold a whole image.
    const bool few = columns_ <= 2 * runs.size() + 64 && height * width <= std::numeric_limits<int32_t>::max();
    if (few && runs.size() <= kMostLayers * columns_ && lay(height)) return;
    layers = 0, area = 0, rows_ = {};
    measure(height);
  }

  Layer layer(size_t j) const {
    const int32_t* low = rows_.data() + 2 * j * columns_ + used_[j].first;
    return {box.x1 + used_[j].first, used_[j].second - used_[j].first, low, low + columns_};
  }

 private:
  // Area, and which rows the box has.
  void measure(int64_t height) {
    int64_t low = height, high = 0, start = box.x1 * height;
    for (const auto& [begin, end] : runs) {
      area += end - begin;
      start = column_start(begin, start, height);
      const bool inside = end - start <= height;
      low = inside ? std::min(low, begin - start) : 0, high = inside ? std::max(high, end - start) : height;
    }
    box.y1 = static_cast<int32_t>(low), box.y2 = static_cast<int32_t>(high);
  }

  static int64_t column_start(int64_t begin, int64_t start, int64_t height) {
    if (begin - start < height) return start;
    return begin - start < 2 * height ? start + height : begin / height * height;
  }

  // The same, and the layers; false where there are too many of them.
  bool lay(int64_t height) {
    int64_t start = box.x1 * height, low = height, high = 0;
    int32_t column = 0;
    size_t depth = 0;
    rows_.resize(2 * columns_), layers = 1, used_[0] = {0, 0};
    for (const auto& [begin, end] : runs) {
      area += end - begin;
      if (begin - start >= height) {
        const int64_t there = column_start(begin, start, height);
        column += there - start == height ? 1 : static_cast<int32_t>((there - start) / height);
        start = there, depth = 0;
      }
      for (int64_t at = begin; at < end; ++depth) {
        if (at - start >= height) ++column, start += height, depth = 0;
        if (depth == layers && !add_layer(column)) return false;
        const int64_t stop = std::min(end, start + height);
        int32_t* place = rows_.data() + 2 * depth * columns_ + static_cast<size_t>(column);
        place[0] = static_cast<int32_t>(at - start), place[columns_] = static_cast<int32_t>(stop - start);
        used_[depth].second = column + 1;
        low = std::min(low, at - start), high = std::max(high, stop - start), at = stop;
      }
    }
    box.y1 = static_cast<int32_t>(low), box.y2 = static_cast<int32_t>(high);
    return true;
  }

  bool add_layer(int32_t column) {
    if (layers == kMostLayers) return false;
    used_[layers++] = {column, column};
    rows_.resize(2 * layers * columns_);
    return true;
  }

  size_t columns_ = 0;
  std::vector<int32_t> rows_;                      // [layers, 2, columns]: low, high
  std::pair<int32_t, int32_t> used_[kMostLayers];  // from which column to which each layer has runs
};

inline int64_t shared_of_layers(const Layer& a, const Layer& b) {
  const int32_t first = std::max(a.first, b.first), last = std::min(a.first + a.columns, b.first + b.columns);
  const int32_t *low_a = a.low + (first - a.first), *high_a = a.high + (first - a.first);
  const int32_t *low_b = b.low + (first - b.first), *high_b = b.high + (first - b.first);
  int32_t sum = 0;
  for (int32_t i = 0; i < last - first; ++i)
    sum += std::max(0, std::min(high_a[i], high_b[i]) - std::max(low_a[i], low_b[i]));
  return sum;
}

inline int64_t shared_of_runs(const Run& a, const Run& b) {
  return std::max<int64_t>(0, std::min(a.second, b.second) - std::max(a.first, b.first));
}

// Few runs among many: the next one that matters is looked for in leaps that double.
inline int64_t shared_of_few(RunSpan few, RunSpan many) {
  int64_t sum = 0;
  auto at = many.begin();
  for (const Run& one : few) {
    const auto ends_before = [&](const Run& other) { return other.second <= one.first; };
    int64_t leap = 1;
    while (many.end() - at > leap && ends_before(at[leap])) at += leap, leap *= 2;
    at = std::partition_point(at, at + std::min<int64_t>(leap + 1, many.end() - at), ends_before);
    for (; at != many.end() && at->first < one.second; ++at) {
      sum += shared_of_runs(one, *at);
      if (at->second > one.second) break;  // the next one may share it too
    }
  }
  return sum;
}

// The runs from the first on that ends behind `begin`.
inline RunSpan runs_behind(RunSpan runs, int64_t begin) {
  const auto ends_before = [&](const Run& run) { return run.second <= begin; };
  return runs.subspan(static_cast<size_t>(std::partition_point(runs.begin(), runs.end(), ends_before) - runs.begin()));
}

inline int64_t shared_by_walking(RunSpan a, RunSpan b) {
  if (a.empty() || b.empty()) return 0;
  const int64_t begin = std::max(a.front().first, b.front().first);
  a = runs_behind(a, begin), b = runs_behind(b, begin);
  if (a.size() > b.size()) std::swap(a, b);
  if (a.size() * 16 < b.size()) return shared_of_few(a, b);
  int64_t sum = 0;
  const Run *i = a.data(), *j = b.data(), *const end_a = i + a.size(), *const end_b = j + b.size();
  while (i < end_a && j < end_b) {
    const int64_t end = std::min(i->second, j->second);
    sum += shared_of_runs(*i, *j);
    i += i->second == end, j += j->second == end;
  }
  return sum;
}

// How many pixels both masks have; they are of images of one size.
inline int64_t shared_pixels(const MaskShape& a, const MaskShape& b) {
  if (a.box.shared_with(b.box) == 0) return 0;
  if (a.layers == 0 || b.layers == 0) return shared_by_walking(a.runs, b.runs);
  int64_t sum = 0;
  for (size_t i = 0; i < a.layers; ++i)
    for (size_t j = 0; j < b.layers; ++j) sum += shared_of_layers(a.layer(i), b.layer(j));
  return sum;
}

// pycocotools' order: whole numbers until one division.
inline double iou_of(int64_t shared, int64_t whole) {
  return shared == 0 ? 0.0 : static_cast<double>(shared) / static_cast<double>(whole);
}

inline bool overlaps_more(const MaskShape& a, const MaskShape& b, const MaskLimit& limit) {
  const auto share = [&](int64_t shared) {
    return iou_of(shared, limit.smaller ? std::min(a.area, b.area) : a.area + b.area - shared);
  };
  // What the boxes share is the most that the masks can.
  const int64_t most = std::min(a.box.shared_with(b.box), std::min(a.area, b.area));
  if (share(most) <= limit.threshold) return false;
  return share(shared_pixels(a, b)) > limit.threshold;
}

// Of all masks of a list.
inline std::vector<MaskShape> shapes_of(const RunMasks& masks, const Parallel& parallel) {
  std::vector<MaskShape> shapes(static_cast<size_t>(masks.count));
  parallel(masks.count, 16, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k)
      shapes[static_cast<size_t>(k)] = {runs_of(masks, k), masks.sizes[2 * k], masks.sizes[2 * k + 1]};
  });
  return shapes;
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
