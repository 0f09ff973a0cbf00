// The weights' gradient of a 3x3 convolution by the transpose of Winograd's F(4x4, 3x3): pixels and gradients become
// values at 36 places, one product of matrices over all tiles for each place, and 3 x 3 weights from those.
// Some hundred tiles at a time; every sum's order is that of the tiles, whatever the number of threads.
#include <algorithm>

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

// One tile's 4 x 4 gradients of one vector of outputs, as far as they lie inside -> 36 vectors at distance `step`.
template <class T>
inline void transform_gradient(const T* grad, const Place& at, int64_t height, int64_t width, int64_t outputs,
                               float* values, int64_t step) {
  Vec rows[kTile][kPoints];
  for (int y = 0; y < kTile; ++y) {
    Vec d[kTile] = {};
    if (at.row + y < height)
      for (int x = 0; x < kTile; ++x)
        if (at.column + x < width) d[x] = load(grad + ((at.row + y) * width + at.column + x) * outputs);
    transpose(d, rows[y]);
  }
  for (int x = 0; x < kPoints; ++x) {
    Vec m[kPoints];
    transpose({rows[0][x], rows[1][x], rows[2][x], rows[3][x]}, m);
    for (int y = 0; y < kPoints; ++y) store(values + (y * kPoints + x) * step, m[y]);
  }
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

template <class T>
void accumulate(const WinogradGradient& op, const Parallel& parallel) {
  const Tiles tiles(op.images, op.height, op.width);
  const int64_t pixels = op.height * op.width, portion = op.portion;
  // Both lie in panels, [place][channels / panel][tile][panel]: what a product reads is one run of memory.
  float* const grads = op.values + kPlaces * portion * op.channels;
  for (int64_t first = 0; first < tiles.count; first += portion) {
    const int64_t count = std::min(portion, tiles.count - first);
    parallel(count, 8, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const Place at = tiles.of(first + t);
        const T* x = static_cast<const T*>(op.x) + at.image * pixels * op.channels;
        const T* grad = static_cast<const T*>(op.grad) + at.image * pixels * op.outputs;
        for (int64_t c = 0; c < op.channels; c += kWidth)
          transform_in(x + c, at, op.height, op.width, op.channels,
                       op.values + (c / kColumns * portion + t) * kColumns + c % kColumns, portion * op.channels);
        for (int64_t o = 0; o < op.outputs; o += kWidth)
          transform_gradient(grad + o, at, op.height, op.width, op.outputs, grads + (o / kWidth * portion + t) * kWidth,
                             portion * op.outputs);
      }
    });
    const int64_t blocks = op.outputs / kWidth;
    parallel(kPlaces * blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        const int64_t place = at / blocks, o = at % blocks * kWidth;
        const float* grad = grads + (place * op.outputs + o) * portion;
        for (int r = 0; r < kWidth; r += kRows)
          for (int64_t c = 0; c < op.channels; c += kColumns)
            multiply(grad + r, op.values + (place * op.channels + c) * portion, count,
                     op.products + (place * op.outputs + o + r) * op.channels + c, op.channels, first > 0);
      }
    });
  }
  parallel(op.outputs, 8, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) transform_back(op, o);
  });
}

}  // namespace

void winograd_gradient(const WinogradGradient& op, const Parallel& parallel) {
  if (op.dtype == DType::bf16) return accumulate<bf16>(op, parallel);
  accumulate<float>(op, parallel);
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
