// What Winograd's F(4x4, 3x3) and its gradient share: the points 0, +-3/4, +-3/2 and infinity, whose rounding is a
// third of that of 0, +-1, +-2, the tiles, and how pixels become values at the points.
#pragma once
#include <memory>

#include "cpu/simd.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

constexpr int kPoints = 6, kPlaces = kPoints * kPoints, kTile = 4;
constexpr float kA = 0.75f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;

// What takes weights of 3 to the values of their polynomial at the points.
constexpr double kA2D = double{kA2}, kB2D = double{kB2}, kAtA = 1 / (2 * kA2D * (kA2D - kB2D)),
                 kAtB = 1 / (2 * kB2D * (kB2D - kA2D));
constexpr double kWeights[kPoints][3] = {{1 / (kA2D * kB2D), 0, 0},       {kAtA, kAtA * kA, kAtA * kA2D},
                                         {kAtA, -kAtA * kA, kAtA * kA2D}, {kAtB, kAtB * kB, kAtB * kB2D},
                                         {kAtB, -kAtB * kB, kAtB * kB2D}, {0, 0, 1}};

// Six inputs to the values of their polynomial at the points.
inline void forward(const Vec (&d)[kPoints], Vec (&t)[kPoints]) {
  const Vec product = spread(kA2 * kB2), sum = spread(-(kA2 + kB2));
  const Vec even_a = fma(spread(-kB2), d[2], d[4]), odd_a = spread(kA) * fma(spread(-kB2), d[1], d[3]);
  const Vec even_b = fma(spread(-kA2), d[2], d[4]), odd_b = spread(kB) * fma(spread(-kA2), d[1], d[3]);
  t[0] = fma(product, d[0], fma(sum, d[2], d[4]));
  t[1] = even_a + odd_a;
  t[2] = even_a - odd_a;
  t[3] = even_b + odd_b;
  t[4] = even_b - odd_b;
  t[5] = fma(product, d[1], fma(sum, d[3], d[5]));
}

struct Place {
  int64_t image, row, column;
};

// The tiles of 4 x 4 pixels that cover maps of this size.
struct Tiles {
  int64_t rows, columns, count;
  Tiles(int64_t images, int64_t height, int64_t width)
      : rows((height + kTile - 1) / kTile), columns((width + kTile - 1) / kTile), count(images * rows * columns) {}
  Place of(int64_t t) const { return {t / (rows * columns), t / columns % rows * kTile, t % columns * kTile}; }
};

// Kept between calls: fresh memory costs a page fault every 4 KB.
inline float* scratch(int64_t floats) {
  thread_local std::unique_ptr<float[]> memory;
  thread_local int64_t size = 0;
  if (size < floats) {
    memory.reset(new float[static_cast<size_t>(floats)]);
    size = floats;
  }
  return memory.get();
}

// Row y of one tile's 6 x 6 pixels of one vector of channels, zeros where it lies outside, to values at six points.
template <class T>
inline void forward_row(const T* image, const Place& at, int y, int64_t height, int64_t width, int64_t channels,
                        Vec (&t)[kPoints]) {
  const int64_t row = at.row + y - 1;
  Vec d[kPoints] = {};
  if (row >= 0 && row < height)
    for (int x = 0; x < kPoints; ++x) {
      const int64_t column = at.column + x - 1;
      if (column >= 0 && column < width) d[x] = load(image + (row * width + column) * channels);
    }
  forward(d, t);
}

// One tile's 6 x 6 pixels of one vector of channels -> 36 vectors at distance `step`.
// image  that vector in the map's first pixel, of pixels at distance `channels`
template <class T>
inline void transform_in(const T* image, const Place& at, int64_t height, int64_t width, int64_t channels,
                         float* values, int64_t step) {
  Vec rows[kPoints][kPoints];
  for (int y = 0; y < kPoints; ++y) forward_row(image, at, y, height, width, channels, rows[y]);
  for (int x = 0; x < kPoints; ++x) {
    Vec t[kPoints];
    forward({rows[0][x], rows[1][x], rows[2][x], rows[3][x], rows[4][x], rows[5][x]}, t);
    for (int y = 0; y < kPoints; ++y) store(values + (y * kPoints + x) * step, t[y]);
  }
}

}  // namespace
}  // namespace htc::cpu::HTC_INSTRUCTION_SET
