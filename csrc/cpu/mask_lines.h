// Pasting is separable: a mask is first interpolated to the box's columns, then every column (or row) along y. Both
// operators do it in this order, without fused multiply-adds, so that they and the reference agree on every pixel.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "geometry.h"
#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

// One axis of a pasted mask, for every pixel inside the box.
struct MaskAxis {
  PixelRange range;
  std::vector<int> cell;
  std::vector<float> upper, lower;

  void build(float low, float high, int size, int64_t pixels) {
    range = pixels_inside(low, high, pixels);
    const size_t count = static_cast<size_t>(range.end - range.first);
    cell.resize(count), upper.resize(count), lower.resize(count);
    for (size_t i = 0; i < count; ++i) {
      const MaskPoint point = mask_point(range.first + static_cast<int64_t>(i), low, high, size);
      cell[i] = point.cell, upper[i] = point.upper, lower[i] = point.lower;
    }
  }
};

template <class Operator>
Box box_of(const Operator& op, int64_t k) {
  const float* box = op.boxes + 4 * k;
  const Box out{box[0], box[1], box[2], box[3]};
  return is_finite(out) ? out : Box{0, 0, 0, 0};
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
