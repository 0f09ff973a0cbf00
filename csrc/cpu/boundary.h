// The boundary of a mask: what a square of 2 * width + 1 pixels around each pixel does not keep; beyond the picture
// there is nothing.
#pragma once
#include <algorithm>
#include <cmath>

#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

// As Python rounds, halves to even.
inline int64_t boundary_width(double ratio, int64_t height, int64_t width) {
  const double diagonal = std::sqrt(static_cast<double>(height * height + width * width));
  return std::max<int64_t>(1, static_cast<int64_t>(std::nearbyint(ratio * diagonal)));
}

// Adds [begin, end) without `inner`'s runs from `at` on, which lie in ascending order.
inline void add_without(OneRuns& out, int64_t begin, int64_t end, const OneRuns& inner, size_t& at) {
  while (at < inner.size() && inner[at].second <= begin) ++at;
  for (; at < inner.size() && inner[at].first < end; ++at) {
    if (inner[at].first > begin) out.push_back({begin, inner[at].first});
    begin = inner[at].second;
  }
  if (begin < end) out.push_back({begin, end});
}

class BoundaryMaker {
 public:
  OneRuns operator()(const OneRuns& runs, int64_t height, int64_t width, int64_t thick) {
    eroded_.clear();
    if (!runs.empty() && 2 * thick < height && 2 * thick < width) erode(runs, height, thick);
    OneRuns out;
    size_t at = 0;
    for (const auto& [begin, end] : runs) add_without(out, begin, end, eroded_, at);
    return out;
  }

 private:
  // Column by column: shortened at both ends, each run leaves in `streak_` for how many columns every row has lasted.
  void erode(const OneRuns& runs, int64_t height, int64_t thick) {
    streak_.assign(static_cast<size_t>(height), 0);
    last_.assign(static_cast<size_t>(height), -2);
    const int32_t needed = static_cast<int32_t>(2 * thick + 1);
    for (size_t i = 0; i < runs.size();) {
      int64_t begin = runs[i].first;
      // Runs that go on over a column's end are cut there.
      for (int64_t column = begin / height; i < runs.size() && begin < (column + 1) * height;) {
        const int64_t end = std::min(runs[i].second, (column + 1) * height);
        column_of(column, begin - column * height + thick, end - column * height - thick, height, thick, needed);
        if (end < runs[i].second) begin = end, ++column;
        else if (++i < runs.size()) begin = runs[i].first;
      }
    }
  }

  void column_of(int64_t column, int64_t low, int64_t high, int64_t height, int64_t thick, int32_t needed) {
    int64_t since = -1;
    for (int64_t y = low; y < high; ++y) {
      const size_t row = static_cast<size_t>(y);
      streak_[row] = last_[row] == column - 1 ? streak_[row] + 1 : 1;
      last_[row] = static_cast<int32_t>(column);
      const bool kept = streak_[row] >= needed;
      if (kept && since < 0) since = y;
      if (!kept && since >= 0) keep(column - thick, since, y, height), since = -1;
    }
    if (since >= 0) keep(column - thick, since, high, height);
  }

  void keep(int64_t column, int64_t low, int64_t high, int64_t height) {
    eroded_.push_back({column * height + low, column * height + high});
  }

  OneRuns eroded_;
  std::vector<int32_t> streak_, last_;
};

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
