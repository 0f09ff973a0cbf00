// Winograd's F(4x4, 3x3) at the points 0, +-3/4, +-3/2 and infinity, whose rounding is a third of that of 0, +-1, +-2.
// A few dozen tiles at a time: transform into the cache, 36 products of matrices there, transform back.
#include <algorithm>
#include <atomic>
#include <memory>

#include "cpu/simd.h"
#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

constexpr int kPoints = 6, kPlaces = kPoints * kPoints, kTile = 4;
constexpr float kA = 0.75f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;

// The product's block in registers: rows (tiles) by two vectors of outputs.
#if defined(__AVX512F__)
constexpr int kRows = 12;
#elif defined(__AVX2__)
constexpr int kRows = 6;
#else
constexpr int kRows = 4;
#endif
constexpr int kColumns = 2 * kWidth;
constexpr int64_t kChunk = 48;  // tiles; a multiple of kRows

inline Vec spread(float value) { return value - Vec{}; }

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

// Six products to four outputs.
inline void backward(const Vec (&m)[kPoints], Vec (&y)[kTile]) {
  const Vec sum_a = m[1] + m[2], difference_a = m[1] - m[2], sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  y[0] = m[0] + sum_a + sum_b;
  y[1] = fma(spread(kA), difference_a, spread(kB) * difference_b);
  y[2] = fma(spread(kA2), sum_a, spread(kB2) * sum_b);
  y[3] = fma(spread(kA2 * kA), difference_a, fma(spread(kB2 * kB), difference_b, m[5]));
}

struct Place {
  int64_t image, row, column;
};

struct Tiles {
  int64_t rows, columns, count;
  explicit Tiles(const Winograd& op)
      : rows((op.height + kTile - 1) / kTile),
        columns((op.width + kTile - 1) / kTile),
        count(op.images * rows * columns) {}
  Place of(int64_t t) const { return {t / (rows * columns), t / columns % rows * kTile, t % columns * kTile}; }
};

// One tile's 6 x 6 pixels of all channels -> values[place][C] at distance `step`.
template <class T>
void transform_in(const Winograd& op, const Place& at, float* values, int64_t step) {
  const T* image = static_cast<const T*>(op.x) + at.image * op.height * op.width * op.channels;
  for (int64_t c = 0; c < op.channels; c += kWidth) {
    Vec rows[kPoints][kPoints];
    for (int y = 0; y < kPoints; ++y) {
      const int64_t row = at.row + y - 1;
      Vec d[kPoints] = {};
      if (row >= 0 && row < op.height)
        for (int x = 0; x < kPoints; ++x) {
          const int64_t column = at.column + x - 1;
          if (column >= 0 && column < op.width) d[x] = load(image + (row * op.width + column) * op.channels + c);
        }
      forward(d, rows[y]);
    }
    for (int x = 0; x < kPoints; ++x) {
      Vec t[kPoints];
      forward({rows[0][x], rows[1][x], rows[2][x], rows[3][x], rows[4][x], rows[5][x]}, t);
      for (int y = 0; y < kPoints; ++y) store(values + (y * kPoints + x) * step + c, t[y]);
    }
  }
}

// One tile's products[place][O] at distance `step` -> its 4 x 4 pixels, as far as they lie inside.
template <class T>
void transform_out(const Winograd& op, const Place& at, const float* products, int64_t step) {
  T* image = static_cast<T*>(op.out) + at.image * op.height * op.width * op.outputs;
  const int64_t height = std::min<int64_t>(kTile, op.height - at.row),
                width = std::min<int64_t>(kTile, op.width - at.column);
  for (int64_t o = 0; o < op.outputs; o += kWidth) {
    Vec columns[kPoints][kTile];
    for (int x = 0; x < kPoints; ++x) {
      Vec m[kPoints];
      for (int y = 0; y < kPoints; ++y) m[y] = load(products + (y * kPoints + x) * step + o);
      backward(m, columns[x]);
    }
    const Vec bias = op.bias ? load(op.bias + o) : Vec{};
    for (int y = 0; y < height; ++y) {
      Vec out[kTile];
      backward({columns[0][y], columns[1][y], columns[2][y], columns[3][y], columns[4][y], columns[5][y]}, out);
      T* pixels = image + ((at.row + y) * op.width + at.column) * op.outputs + o;
      for (int x = 0; x < width; ++x) {
        const Vec value = out[x] + bias;
        store(pixels + x * op.outputs, op.relu ? larger(Vec{}, value) : value);
      }
    }
  }
}

// values [kRows, C] times packed [C, kColumns] -> products [kRows, kColumns] at distance `step`.
inline void multiply(const float* values, const float* packed, int64_t channels, float* products, int64_t step) {
  Vec sum[kRows][2] = {};
  for (int64_t c = 0; c < channels; ++c, packed += kColumns) {
    const Vec first = load(packed), second = load(packed + kWidth);
    for (int r = 0; r < kRows; ++r) {
      const Vec value = spread(values[r * channels + c]);
      sum[r][0] = fma(value, first, sum[r][0]);
      sum[r][1] = fma(value, second, sum[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    store(products + r * step, sum[r][0]);
    store(products + r * step + kWidth, sum[r][1]);
  }
}

// Kept between calls: fresh memory costs a page fault every 4 KB.
float* scratch(int64_t floats) {
  thread_local std::unique_ptr<float[]> memory;
  thread_local int64_t size = 0;
  if (size < floats) {
    memory.reset(new float[static_cast<size_t>(floats)]);
    size = floats;
  }
  return memory.get();
}

template <class T>
void convolve(const Winograd& op, const Parallel& parallel) {
  const Tiles tiles(op);
  // Few tiles are dealt out in smaller portions, so that no thread goes without.
  const int64_t portion = std::min(kChunk, ((tiles.count + 7) / 8 + kRows - 1) / kRows * kRows);
  const int64_t chunks = (tiles.count + portion - 1) / portion;
  std::atomic<int64_t> next{0};
  parallel(chunks, 1, [&](int64_t, int64_t) {
    float* values = scratch(kPlaces * portion * (op.channels + op.outputs));
    float* products = values + kPlaces * portion * op.channels;
    for (int64_t chunk; (chunk = next.fetch_add(1)) < chunks;) {
      const int64_t begin = chunk * portion, count = std::min(portion, tiles.count - begin);
      for (int64_t t = 0; t < count; ++t)
        transform_in<T>(op, tiles.of(begin + t), values + t * op.channels, portion * op.channels);
      for (int place = 0; place < kPlaces; ++place)
        for (int64_t t = 0; t < count; t += kRows)
          for (int64_t o = 0; o < op.outputs; o += kColumns)
            multiply(values + (place * portion + t) * op.channels, op.packed + (place * op.outputs + o) * op.channels,
                     op.channels, products + (place * portion + t) * op.outputs + o, op.outputs);
      for (int64_t t = 0; t < count; ++t)
        transform_out<T>(op, tiles.of(begin + t), products + t * op.outputs, portion * op.outputs);
    }
  });
}

}  // namespace

void winograd_weights(const WinogradWeights& op, const Parallel& parallel) {
  constexpr double a = kA, b = kB, a2 = a * a, b2 = b * b, na = 1 / (2 * a2 * (a2 - b2)), nb = 1 / (2 * b2 * (b2 - a2));
  constexpr double g[kPoints][3] = {{1 / (a2 * b2), 0, 0}, {na, na * a, na * a2},  {na, -na * a, na * a2},
                                    {nb, nb * b, nb * b2}, {nb, -nb * b, nb * b2}, {0, 0, 1}};
  parallel(op.outputs, 8, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o)
      for (int64_t c = 0; c < op.channels; ++c)
        for (int place = 0; place < kPlaces; ++place) {
          double sum = 0;
          for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j)
              sum += g[place / kPoints][i] * g[place % kPoints][j] *
                     op.weight[o * op.stride_o + c * op.stride_c + i * op.stride_h + j * op.stride_w];
          op.packed[(place * op.outputs + o / kColumns * kColumns) * op.channels + c * kColumns + o % kColumns] =
              static_cast<float>(sum);
        }
  });
}

void winograd(const Winograd& op, const Parallel& parallel) {
  if (op.dtype == DType::bf16) return convolve<bf16>(op, parallel);
  convolve<float>(op, parallel);
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
