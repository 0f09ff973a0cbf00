// 3x3 convolutions as products of the matrix unit, without unfolding: 16 pixels of a row, 32 channels of each, are a
// tile as they lie in memory. A band of rows, with zeros around, is copied into the cache; of it all pixels meet a
// block of outputs, whose weights stay in the cache too, before the next block comes.
#include <algorithm>
#include <atomic>

#include "amx/finish.h"
#include "amx/scratch.h"
#include "amx/tiles.h"
#include "convolutions.h"

namespace htc::amx {
namespace {

constexpr int kOutputs = 32;          // two tiles' columns, the block in registers
constexpr int64_t kColumns = 128;     // pixels of a row that are taken at once
constexpr int64_t kBand = 400 << 10;  // elements of a band, 800 KB of the cache's 2 MB
constexpr int kTaps = 9;

// A part of an image: columns first ... last - 1 of the result, in tiles of `rows` pixels, of which the last lies over
// the one before where they do not divide.
struct Strip {
  int64_t image, first, last;
  int rows;
};

class Convolve {
 public:
  Convolve(const Convolution3x3& op, const Strip& strip, uint16_t* lines)
      : op_(op), strip_(strip), lines_(lines), step_((strip.last - strip.first + 2) * op.channels) {}

  // Rows 2 * begin ... 2 * end - 1 of the result.
  void run(int64_t begin, int64_t end) {
    for (int64_t row = 2 * begin - 1; row <= 2 * end; ++row) read(row, lines_ + (row - 2 * begin + 1) * step_);
    const Tiles tiles(strip_.rows);
    for (int64_t o = 0; o < op_.outputs; o += kOutputs)
      for (int64_t pair = begin; pair < end; ++pair)
        for (int64_t x = strip_.first; x < strip_.last; x += strip_.rows) {
          const int64_t at = std::min(x, strip_.last - strip_.rows);
          multiply(lines_ + 2 * (pair - begin) * step_ + (at - strip_.first) * op_.channels, o);
          write(2 * pair, at, o);
        }
  }

 private:
  // One row of the image with its neighbours to the left and the right, zeros where it has none.
  void read(int64_t row, uint16_t* out) const {
    if (row < 0 || row >= op_.height) {
      std::fill_n(out, step_, uint16_t{0});
      return;
    }
    const int64_t left = std::max<int64_t>(strip_.first - 1, 0), right = std::min(strip_.last + 1, op_.width);
    const uint16_t* image = static_cast<const uint16_t*>(op_.x) + strip_.image * op_.height * op_.width * op_.channels;
    if (left == strip_.first) out = std::fill_n(out, op_.channels, uint16_t{0});
    out = std::copy_n(image + (row * op_.width + left) * op_.channels, (right - left) * op_.channels, out);
    if (right == strip_.last) std::fill_n(out, op_.channels, uint16_t{0});
  }

  // The sums of 32 outputs for a tile's pixels in two rows; in: the pixel up left of its first.
  void multiply(const uint16_t* in, int64_t o) {
    const int64_t stride = op_.channels * 2, blocks = op_.channels / kDepth;
    const uint16_t* weights = static_cast<const uint16_t*>(op_.packed) + o * kTaps * op_.channels;
    written();
    clear_sums();
    // Each row is loaded once for both rows of the result: ten loads for twelve products.
    for (int64_t block = 0; block < blocks; ++block, in += kDepth)
      for (int dx = 0; dx < 3; ++dx, weights += 6 * kTileElements) {
        const uint16_t* row = in + dx * op_.channels;
        _tile_loadd(6, weights, 64);
        _tile_loadd(7, weights + kTileElements, 64);
        _tile_loadd(4, row, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, row + step_, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, weights + 2 * kTileElements, 64);
        _tile_loadd(7, weights + 3 * kTileElements, 64);
        _tile_dpbf16ps(0, 5, 6);
        _tile_dpbf16ps(1, 5, 7);
        _tile_loadd(4, row + 2 * step_, stride);
        _tile_dpbf16ps(2, 4, 6);
        _tile_dpbf16ps(3, 4, 7);
        _tile_loadd(6, weights + 4 * kTileElements, 64);
        _tile_loadd(7, weights + 5 * kTileElements, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, row + 3 * step_, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    store_sums(sums_);
  }

  void write(int64_t y, int64_t x, int64_t o) const {
    const Finish finish(op_.bias, op_.relu);
    const int64_t last = std::min<int64_t>(2, op_.height - y);
    for (int64_t row = 0; row < last; ++row) {
      uint16_t* out =
          static_cast<uint16_t*>(op_.out) + ((strip_.image * op_.height + y + row) * op_.width + x) * op_.outputs + o;
      for (int p = 0; p < strip_.rows; ++p, out += op_.outputs) finish(sums_ + row * 512 + p * 16, o, nullptr, out);
    }
  }

  const Convolution3x3& op_;
  const Strip strip_;
  uint16_t* lines_;
  const int64_t step_;  // elements of a line: the strip's pixels and one more on either side
  alignas(64) float sums_[4 * 256];
};

// Strips of about equal width, of whole tiles.
struct Layout {
  int64_t strips, columns;  // of an image, and of a strip but the last
  explicit Layout(int64_t width) {
    strips = (width + kColumns - 1) / kColumns;
    columns = (width + strips - 1) / strips;
    columns = std::min(width, (columns + kRows - 1) / kRows * kRows);
    strips = (width + columns - 1) / columns;
  }
  Strip of(int64_t image, int64_t strip, const Convolution3x3& op) const {
    const int64_t first = strip * columns, last = std::min(op.width, first + columns), count = last - first;
    const int64_t tiles = (count + kRows - 1) / kRows;
    return {image, first, last, static_cast<int>((count + tiles - 1) / tiles)};
  }
};

inline __m256i halves(const uint16_t* in) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in)); }
inline __m256i halves(const float* in) { return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(in)); }

// 16 weights at distance `stride`, in bfloat16.
template <class T>
inline __m256i halves(const T* in, int64_t stride) {
  if (stride == 1) return halves(in);
  T values[16];
  for (int i = 0; i < 16; ++i) values[i] = in[i * stride];
  return halves(values);
}

// One tile: 16 outputs, 32 channels, in pairs. What lies together in memory is read together.
template <class T>
void pack_tile(const T* weight, int64_t stride_o, int64_t stride_c, uint16_t* out) {
  if (stride_c == 1) {
    alignas(64) uint32_t pairs[16][kPairs];
    for (int o = 0; o < 16; ++o)
      for (int half = 0; half < 2; ++half)
        _mm256_store_si256(reinterpret_cast<__m256i*>(pairs[o] + half * 8), halves(weight + o * stride_o + half * 16));
    const __m512i rows = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                            _mm512_set1_epi32(kPairs));
    for (int pair = 0; pair < kPairs; ++pair)
      _mm512_storeu_si512(out + pair * kDepth, _mm512_i32gather_epi32(rows, &pairs[0][pair], 4));
    return;
  }
  for (int pair = 0; pair < kPairs; ++pair) {
    const __m512i first = _mm512_cvtepu16_epi32(halves(weight + 2 * pair * stride_c, stride_o)),
                  second = _mm512_cvtepu16_epi32(halves(weight + (2 * pair + 1) * stride_c, stride_o));
    _mm512_storeu_si512(out + pair * kDepth, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
  }
}

// Weights in the order that they are read in: of a block of outputs and one of channels column by column.
template <class T>
void pack(const ConvolutionWeights& op, const Parallel& parallel) {
  const int64_t blocks = op.channels / kDepth;
  parallel(op.outputs / kOutputs * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      uint16_t* out = static_cast<uint16_t*>(op.packed) + part * op.kernel * op.kernel * kOutputs * kDepth;
      const T* weight = static_cast<const T*>(op.weight) + part / blocks * kOutputs * op.stride_o +
                        part % blocks * kDepth * op.stride_c;
      for (int64_t dx = 0; dx < op.kernel; ++dx)
        for (int64_t dy = 0; dy < op.kernel; ++dy)
          for (int64_t half = 0; half < 2; ++half, out += kTileElements)
            pack_tile(weight + half * 16 * op.stride_o + dy * op.stride_h + dx * op.stride_w, op.stride_o, op.stride_c,
                      out);
    }
  });
}

}  // namespace

void convolution_weights(const ConvolutionWeights& op, const Parallel& parallel) {
  if (op.dtype == DType::bf16) return pack<uint16_t>(op, parallel);
  pack<float>(op, parallel);
}

void convolution3x3(const Convolution3x3& op, const Parallel& parallel) {
  const Layout layout(op.width);
  const int64_t pairs = (op.height + 1) / 2;
  const int64_t step = (layout.columns + 2) * op.channels, all = op.images * layout.strips * pairs;
  // As many rows as the cache has room for; few are dealt out in smaller portions, so that no thread goes without.
  const int64_t most = std::clamp<int64_t>((kBand / step - 2) / 2, 1, pairs);
  const int64_t portion = std::clamp<int64_t>((all + 15) / 16, 1, most);
  const int64_t bands = (pairs + portion - 1) / portion, items = op.images * layout.strips * bands;
  std::atomic<int64_t> next{0};
  parallel(items, 1, [&](int64_t, int64_t) {
    uint16_t* lines = scratch((2 * portion + 2) * step);
    for (int64_t item; (item = next.fetch_add(1)) < items;) {
      const int64_t band = item % bands, strip = item / bands % layout.strips;
      Convolve(op, layout.of(item / bands / layout.strips, strip, op), lines)
          .run(band * portion, std::min(pairs, (band + 1) * portion));
    }
  });
}

}  // namespace htc::amx
