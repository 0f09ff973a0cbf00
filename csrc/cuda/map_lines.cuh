// Maps resized to the image and cut at a threshold, as encode_logits and encode_prototypes define it: bilinear, pixel
// centres, edges clamped; x first, then y. A column of the image is walked cell by cell. Where the threshold lies
// between two cells, the pixel is computed, and only those are looked at one by one that rounding could turn.
#pragma once
#include <algorithm>

#include "cuda/find_runs.cuh"

namespace htc::cuda {

// How the pixels of one side of the image lie in the cells of a map. Cells are counted from the first that is shown.
struct MapAxis {
  int first, cells;
  float scale, shift, pixels_per_cell;
};

inline MapAxis map_axis(double low, double high, int64_t pixels) {
  const double first = std::floor(low), per_pixel = (high - low) / static_cast<double>(std::max<int64_t>(pixels, 1));
  const auto scale = static_cast<float>(per_pixel);
  return {static_cast<int>(first), static_cast<int>(std::ceil(high) - first), scale, static_cast<float>(low - first),
          1.0f / scale};
}

struct MapPoint {
  int low, high;
  float lower, upper;
};

__device__ __forceinline__ MapPoint map_point(const MapAxis& axis, int64_t pixel) {
  const float at = fmaxf(axis.scale * (static_cast<float>(pixel) + 0.5f) - 0.5f + axis.shift, 0.0f);
  const int low = min(static_cast<int>(at), axis.cells - 1);
  const float upper = fminf(at - static_cast<float>(low), 1.0f);
  return {low, min(low + 1, axis.cells - 1), 1.0f - upper, upper};
}

// The first pixel of a range whose lower cell is `cell` or later; its end where there is none.
__device__ __forceinline__ int64_t first_pixel(const MapAxis& axis, int cell, PixelRange range) {
  while (range.first < range.end) {
    const int64_t middle = range.first + (range.end - range.first) / 2;
    if (map_point(axis, middle).low < cell) range.first = middle + 1;
    else range.end = middle;
  }
  return range.first;
}

struct CellRange {
  int first, end;
};

struct MapParams {
  const float* maps;  // [K, map_h, map_w]
  int map_h, map_w;
  MapAxis down, across;
  int64_t height, width;
  float threshold;
};

template <class Operator>
MapParams map_params(const Operator& op, const float* maps) {
  return {maps,
          op.map_h,
          op.map_w,
          map_axis(op.crop[1], op.crop[3], op.height),
          map_axis(op.crop[0], op.crop[2], op.width),
          op.height,
          op.width,
          op.threshold};
}

inline size_t map_tables(const MapParams& p) { return sizeof(uint32_t) * (static_cast<size_t>(p.down.cells) + 1); }

// Where a mask can have ones, and which cells its map has: the others are zero. Both count from the first cell shown.
struct MapPlace {
  PixelRange rows, columns;
  CellRange down, across;
};

// starts[i]: the first row whose lower cell is the first row's plus i, or later; behind the last cell, the rows' end.
__device__ __forceinline__ void find_starts(const MapParams& p, const MapPlace& place, uint32_t* starts) {
  const int first = map_point(p.down, place.rows.first).low, last = map_point(p.down, place.rows.end - 1).low;
  for (int i = static_cast<int>(threadIdx.x); i <= last - first + 1; i += kRunColumns)
    starts[i] = static_cast<uint32_t>(first_pixel(p.down, first + i, place.rows));
}

// The map between two cells of a column, against the threshold.
struct Crossing {
  float a, b, above, below, threshold;

  // A mix of a and b, as computed, is never wrong by half the margin: beyond it, on which side a pixel lies tells it of
  // all pixels on the same side of it.
  __device__ __forceinline__ Crossing(float a_, float b_, float threshold_) : a(a_), b(b_), threshold(threshold_) {
    const float margin = (fabsf(a) + fabsf(b) + fabsf(threshold)) * 1e-6f + 1e-30f;
    above = threshold + margin;
    below = threshold - margin;
  }
  __device__ __forceinline__ float at(const MapPoint& point) const { return a * point.lower + b * point.upper; }
  // The same on all the way from a to b, and which. What is not finite is never sure.
  __device__ __forceinline__ bool sure(bool& inside) const {
    const bool zero = a == 0.0f && b == 0.0f;  // outside of boxes: exactly zero between them, too
    inside = zero ? 0.0f > threshold : a > above && b > above;
    return zero || inside || (a < below && b < below);
  }
  // Narrows the rows to those that have to be looked at one by one: before them is a's side, behind them b's.
  __device__ __forceinline__ void narrow(const MapParams& p, int cell, uint32_t& first, uint32_t& end) const {
    const bool rising = b > a;
    const float share = __fdividef(threshold - a, b - a);
    const float guess = ((static_cast<float>(cell) + 0.5f - p.down.shift) + share) * p.down.pixels_per_cell - 0.5f;
    const float bounded = fminf(fmaxf(ceilf(guess), static_cast<float>(first)), static_cast<float>(end));
    int64_t row = min(static_cast<int64_t>(bounded), static_cast<int64_t>(end) - 1);
    for (bool guessed = true; first < end; guessed = false) {
      const float value = at(map_point(p.down, row));
      const bool before = rising ? value < below : value > above, behind = rising ? value > above : value < below;
      if (before) first = static_cast<uint32_t>(row) + 1;
      else if (behind) end = static_cast<uint32_t>(row);
      else return;
      // The guess is right or one off; bisection is for maps that are nearly flat.
      row = !guessed ? first + (end - first) / 2 : before ? first : static_cast<int64_t>(end) - 1;
    }
  }
};

template <class Emit>
__device__ __forceinline__ void walk_map(const MapParams& p, const MapPlace& place, const float* map,
                                         const uint32_t* starts, int64_t column, Emit emit) {
  const MapPoint across = map_point(p.across, column);
  const bool low_inside = across.low >= place.across.first && across.low < place.across.end;
  const bool high_inside = across.high >= place.across.first && across.high < place.across.end;
  const float* origin = map + static_cast<int64_t>(p.down.first) * p.map_w + p.across.first;
  const auto value = [&](int row) {
    const bool inside = row >= place.down.first && row < place.down.end;
    const float* cells = origin + static_cast<int64_t>(row) * p.map_w;
    const float low = inside && low_inside ? cells[across.low] : 0.0f;
    const float high = inside && high_inside ? cells[across.high] : 0.0f;
    return low * across.lower + high * across.upper;
  };
  Turns<Emit> turn{emit};
  const int first_cell = map_point(p.down, place.rows.first).low, last = map_point(p.down, place.rows.end - 1).low;
  int known = -1;  // the row of cells that b is
  float b = 0.0f;
  for (int cell = first_cell; cell <= last; cell++) {
    uint32_t first = starts[cell - first_cell], end = starts[cell - first_cell + 1];
    if (first == end) continue;  // a map that shrinks has cells without rows
    const float a = known == cell ? b : value(cell);
    known = min(cell + 1, p.down.cells - 1);
    b = known == cell ? a : value(known);
    const Crossing crossing(a, b, p.threshold);
    bool inside;
    if (crossing.sure(inside)) {
      turn(inside, first);
      continue;
    }
    const uint32_t begin = first, behind = end;
    crossing.narrow(p, cell, first, end);
    if (begin < first) turn(!(b > a), begin);
    for (uint32_t row = first; row < end; row++) turn(crossing.at(map_point(p.down, row)) > p.threshold, row);
    if (end < behind) turn(b > a, end);
  }
  turn(false, static_cast<uint32_t>(place.rows.end));
}

}  // namespace htc::cuda
