// Winograd's F(4x4, 3x3), a few dozen tiles at a time: transform into the cache, 36 products of matrices there,
// transform back.
#include <algorithm>
#include <atomic>

#include "convolutions.h"
#include "cpu/winograd_tiles.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// The product's block in registers: rows (tiles) by two vectors of outputs.
#if defined(__AVX512F__)
constexpr int kRows = 12;
#elif defined(__AVX2__)
constexpr int kRows = 6;
#elif defined(__aarch64__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kColumns = 2 * kWidth;
constexpr int64_t kChunk = 24;  // tiles; a multiple of kRows

// Six products to four outputs.
inline void backward(const Vec (&m)[kPoints], Vec (&y)[kTile]) {
  const Vec sum_a = m[1] + m[2], difference_a = m[1] - m[2], sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  y[0] = m[0] + sum_a + sum_b;
  y[1] = fma(spread(kA), difference_a, spread(kB) * difference_b);
  y[2] = fma(spread(kA2), sum_a, spread(kB2) * sum_b);
  y[3] = fma(spread(kA2 * kA), difference_a, fma(spread(kB2 * kB), difference_b, m[5]));
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

template <class T>
void convolve(const Winograd& op, const Parallel& parallel) {
  const Tiles tiles(op.images, op.height, op.width);
  // Few tiles are dealt out in smaller portions, so that no thread goes without.
  const int64_t portion = std::min(kChunk, ((tiles.count + 7) / 8 + kRows - 1) / kRows * kRows);
  const int64_t chunks = (tiles.count + portion - 1) / portion;
  std::atomic<int64_t> next{0};
  parallel(chunks, 1, [&](int64_t, int64_t) {
    // From a place to the next; a vector more, so that one tile's values are not all of one set of the cache.
    const int64_t step = portion * op.channels + kWidth, out_step = portion * op.outputs + kWidth;
    float* values = scratch(kPlaces * (step + out_step));
    float* products = values + kPlaces * step;
    for (int64_t chunk; (chunk = next.fetch_add(1)) < chunks;) {
      const int64_t begin = chunk * portion, count = std::min(portion, tiles.count - begin);
      for (int64_t t = 0; t < count; ++t) {
        const Place at = tiles.of(begin + t);
        const T* image = static_cast<const T*>(op.x) + at.image * op.height * op.width * op.channels;
        for (int64_t c = 0; c < op.channels; c += kWidth)
          transform_in(image + c, at, op.height, op.width, op.channels, values + t * op.channels + c, step);
      }
      for (int place = 0; place < kPlaces; ++place)
        for (int64_t t = 0; t < count; t += kRows)
          for (int64_t o = 0; o < op.outputs; o += kColumns)
            multiply(values + place * step + t * op.channels, op.packed + (place * op.outputs + o) * op.channels,
                     op.channels, products + place * out_step + t * op.outputs + o, op.outputs);
      for (int64_t t = 0; t < count; ++t)
        transform_out<T>(op, tiles.of(begin + t), products + t * op.outputs, out_step);
    }
  });
}

}  // namespace

void winograd_weights(const WinogradWeights& op, const Parallel& parallel) {
  parallel(op.outputs / kColumns, 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin * kColumns; o < end * kColumns; o += kColumns)
      for (int64_t c = 0; c < op.channels; ++c) {
        double columns[kPoints][3][kColumns];
        for (int j = 0; j < 3; ++j) {
          double weight[3][kColumns];
          for (int i = 0; i < 3; ++i)
            for (int k = 0; k < kColumns; ++k)
              weight[i][k] = op.weight[(o + k) * op.stride_o + c * op.stride_c + i * op.stride_h + j * op.stride_w];
          for (int y = 0; y < kPoints; ++y)
            for (int k = 0; k < kColumns; ++k)
              columns[y][j][k] =
                  kWeights[y][0] * weight[0][k] + kWeights[y][1] * weight[1][k] + kWeights[y][2] * weight[2][k];
        }
        for (int place = 0; place < kPlaces; ++place) {
          const auto& [first, second, third] = columns[place / kPoints];
          const double (&g)[3] = kWeights[place % kPoints];
          float* out = op.packed + (place * op.outputs + o) * op.channels + c * kColumns;
          for (int k = 0; k < kColumns; ++k)
            out[k] = static_cast<float>(g[0] * first[k] + g[1] * second[k] + g[2] * third[k]);
        }
      }
  });
}

void winograd(const Winograd& op, const Parallel& parallel) {
  if (op.dtype == DType::bf16) return convolve<bf16>(op, parallel);
  convolve<float>(op, parallel);
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
