// The weights' gradient of a 3x3 convolution by the transpose of Winograd's F(4x4, 3x3): pixels and gradients become
// values at 36 places, one product of matrices over all tiles for each place, and 3 x 3 weights from those. A thread
// takes one column of places at a time, of some hundred tiles, whose values and products stay in its cache: pixels are
// read six times, and no thread waits for another. Every sum's order is that of the tiles, whatever the threads.
#include <algorithm>
#include <atomic>

#include "convolutions.h"
#include "cpu/winograd_tiles.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// The product's block in registers: rows (outputs) by two vectors of channels.
#if defined(__AVX512F__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kColumns = 2 * kWidth;
constexpr int64_t kValues = 128 << 10;  // floats of a portion's tiles, half a MB, or half as many as products
constexpr int64_t kGroup = 256;         // outputs at once, at most
constexpr int64_t kBlock = 32;          // and what divides them

// Four gradients to what they are worth at the points: the transpose of six products to four outputs.
inline void transpose(const Vec (&y)[kTile], Vec (&m)[kPoints]) {
  const Vec even_a = fma(spread(kA2), y[2], y[0]), odd_a = fma(spread(kA2 * kA), y[3], spread(kA) * y[1]);
  const Vec even_b = fma(spread(kB2), y[2], y[0]), odd_b = fma(spread(kB2 * kB), y[3], spread(kB) * y[1]);
  m[0] = y[0];
  m[1] = even_a + odd_a;
  m[2] = even_a - odd_a;
  m[3] = even_b + odd_b;
  m[4] = even_b - odd_b;
  m[5] = y[3];
}

// One tile's 4 x 4 gradients of one vector of outputs, as far as they lie inside -> 6 vectors at distance `step`: those
// of one column of places.
template <int kColumn, class T>
inline void transform_gradient(const T* grad, const Place& at, int64_t height, int64_t width, int64_t outputs,
                               float* values, int64_t step) {
  Vec column[kTile];
  for (int y = 0; y < kTile; ++y) {
    Vec d[kTile] = {}, m[kPoints];
    if (at.row + y < height)
      for (int x = 0; x < kTile; ++x)
        if (at.column + x < width) d[x] = load(grad + ((at.row + y) * width + at.column + x) * outputs);
    transpose(d, m);
    column[y] = m[kColumn];
  }
  Vec m[kPoints];
  transpose(column, m);
  for (int y = 0; y < kPoints; ++y) store(values + y * step, m[y]);
}

// The same of one tile's 6 x 6 pixels of one vector of channels.
template <int kColumn, class T>
inline void transform_pixels(const T* image, const Place& at, int64_t height, int64_t width, int64_t channels,
                             float* values, int64_t step) {
  Vec column[kPoints];
  for (int y = 0; y < kPoints; ++y) {
    Vec t[kPoints];
    forward_row(image, at, y, height, width, channels, t);
    column[y] = t[kColumn];
  }
  Vec t[kPoints];
  forward(column, t);
  for (int y = 0; y < kPoints; ++y) store(values + y * step, t[y]);
}

// grad [tiles, kWidth], of which kRows count, and pixels [tiles, kColumns] -> their product over tiles, added to or
// instead of what is in products [kRows, kColumns] at distance `step`.
inline void multiply(const float* grad, const float* pixels, int64_t tiles, float* products, int64_t step, bool adds) {
  Vec sum[kRows][2] = {};
  if (adds)
    for (int r = 0; r < kRows; ++r)
      sum[r][0] = load(products + r * step), sum[r][1] = load(products + r * step + kWidth);
  for (int64_t t = 0; t < tiles; ++t, grad += kWidth, pixels += kColumns) {
    const Vec first = load(pixels), second = load(pixels + kWidth);
    for (int r = 0; r < kRows; ++r) {
      const Vec value = spread(grad[r]);
      sum[r][0] = fma(value, first, sum[r][0]);
      sum[r][1] = fma(value, second, sum[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    store(products + r * step, sum[r][0]);
    store(products + r * step + kWidth, sum[r][1]);
  }
}

// Six places to three weights.
inline void weights(const Vec (&m)[kPoints], Vec (&w)[3]) {
  for (int i = 0; i < 3; ++i) {
    w[i] = Vec{};
    for (int p = 0; p < kPoints; ++p) w[i] = fma(spread(static_cast<float>(kWeights[p][i])), m[p], w[i]);
  }
}

// products [place][O][C] of output o -> out [O, 3, 3, C]
void transform_back(const WinogradGradient& op, int64_t o) {
  const int64_t step = op.outputs * op.channels;
  for (int64_t c = 0; c < op.channels; c += kWidth) {
    Vec columns[3][kPoints];
    for (int x = 0; x < kPoints; ++x) {
      Vec m[kPoints], w[3];
      for (int y = 0; y < kPoints; ++y) m[y] = load(op.products + (y * kPoints + x) * step + o * op.channels + c);
      weights(m, w);
      for (int i = 0; i < 3; ++i) columns[i][x] = w[i];
    }
    for (int i = 0; i < 3; ++i) {
      Vec w[3];
      weights(columns[i], w);
      for (int j = 0; j < 3; ++j) store(op.out + ((o * 3 + i) * 3 + j) * op.channels + c, w[j]);
    }
  }
}

// The products of one column of places for outputs first ... last - 1, over all tiles.
template <int kColumn, class T>
void accumulate(const WinogradGradient& op, int64_t first_output, int64_t last_output) {
  const Tiles tiles(op.images, op.height, op.width);
  const int64_t pixels = op.height * op.width, count_o = last_output - first_output;
  const int64_t floats = std::max(kValues, kPoints * op.channels * count_o / 2);
  const int64_t portion = std::clamp<int64_t>(floats / (kPoints * (op.channels + count_o)), 1, tiles.count);
  // Both lie in panels, [place][channels / panel][tile][panel]: what a product reads is one run of memory.
  float* const values = scratch(kPoints * portion * (op.channels + count_o));
  float* const grads = values + kPoints * portion * op.channels;
  for (int64_t first = 0; first < tiles.count; first += portion) {
    const int64_t count = std::min(portion, tiles.count - first);
    for (int64_t t = 0; t < count; ++t) {
      const Place at = tiles.of(first + t);
      const T* x = static_cast<const T*>(op.x) + at.image * pixels * op.channels;
      const T* grad = static_cast<const T*>(op.grad) + at.image * pixels * op.outputs + first_output;
      for (int64_t c = 0; c < op.channels; c += kWidth)
        transform_pixels<kColumn>(x + c, at, op.height, op.width, op.channels,
                                  values + (c / kColumns * portion + t) * kColumns + c % kColumns,
                                  portion * op.channels);
      for (int64_t o = 0; o < count_o; o += kWidth)
        transform_gradient<kColumn>(grad + o, at, op.height, op.width, op.outputs,
                                    grads + (o / kWidth * portion + t) * kWidth, portion * count_o);
    }
    for (int y = 0; y < kPoints; ++y)
      for (int64_t o = 0; o < count_o; o += kRows)
        for (int64_t c = 0; c < op.channels; c += kColumns)
          multiply(grads + (y * count_o + o / kWidth * kWidth) * portion + o % kWidth,
                   values + (y * op.channels + c) * portion, count,
                   op.products + ((y * kPoints + kColumn) * op.outputs + first_output + o) * op.channels + c,
                   op.channels, first > 0);
  }
}

template <class T>
void gradient(const WinogradGradient& op, const Parallel& parallel) {
  // With more threads than places' columns, outputs are dealt out too.
  const int64_t blocks = op.outputs / kBlock, threads = std::min((op.threads + kPoints - 1) / kPoints, blocks);
  const int64_t groups = std::max((op.outputs + kGroup - 1) / kGroup, threads);
  const int64_t group = (blocks + groups - 1) / groups * kBlock, count = (op.outputs + group - 1) / group;
  std::atomic<int64_t> next{0};
  parallel(kPoints * count, 1, [&](int64_t, int64_t) {
    for (int64_t item; (item = next.fetch_add(1)) < kPoints * count;) {
      const int64_t first = item / kPoints * group, last = std::min(op.outputs, first + group);
      switch (item % kPoints) {
        case 0: accumulate<0, T>(op, first, last); break;
        case 1: accumulate<1, T>(op, first, last); break;
        case 2: accumulate<2, T>(op, first, last); break;
        case 3: accumulate<3, T>(op, first, last); break;
        case 4: accumulate<4, T>(op, first, last); break;
        default: accumulate<5, T>(op, first, last);
      }
    }
  });
  parallel(op.outputs, 8, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) transform_back(op, o);
  });
}

}  // namespace

void winograd_gradient(const WinogradGradient& op, const Parallel& parallel) {
  if (op.dtype == DType::bf16) return gradient<bf16>(op, parallel);
  gradient<float>(op, parallel);
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
