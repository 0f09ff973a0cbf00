// What pasting and encoding share: which pixels of the image a mask covers, and its value between two cells. The order
// of operations is the CPU's (csrc/cpu/mask_lines.h), so that all agree on every pixel.
#pragma once
#include "cuda/launch.cuh"
#include "geometry.h"

namespace htc::cuda {

struct MaskParams {
  const float* masks;  // [K, h, w]
  const float* boxes;  // [K, 4]
  int mask_h, mask_w;
  int64_t height, width;
  float threshold;
};

template <class Operator>
MaskParams mask_params(const Operator& op) {
  return {op.masks, op.boxes, op.mask_h, op.mask_w, op.height, op.width, op.threshold};
}

// Where mask k lies in the image; a box that is not finite has no pixels.
struct MaskPlace {
  Box box;
  PixelRange rows, columns;
};

__device__ __forceinline__ MaskPlace place_mask(const MaskParams& p, int64_t k) {
  const float* row = p.boxes + 4 * k;
  MaskPlace place{{row[0], row[1], row[2], row[3]}, {0, 0}, {0, 0}};
  if (!is_finite(place.box)) return place;
  place.rows = pixels_inside(place.box.y1, place.box.y2, p.height);
  place.columns = pixels_inside(place.box.x1, place.box.x2, p.width);
  return place;
}

// The value of cell `row` (counted from 1) in a column of the image; zero outside the mask.
__device__ __forceinline__ float column_value(const MaskParams& p, const float* mask, int row, const MaskPoint& at) {
  if (row < 1 || row > p.mask_h) return 0.0f;
  const float* cells = mask + static_cast<int64_t>(row - 1) * p.mask_w;
  const float low = at.cell >= 1 ? cells[at.cell - 1] : 0.0f, high = at.cell < p.mask_w ? cells[at.cell] : 0.0f;
  return low * at.lower + high * at.upper;
}

}  // namespace htc::cuda
