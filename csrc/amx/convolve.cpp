// 3x3 convolutions as products of the matrix unit, without unfolding: 16 pixels of a row, 32 channels of each, are a tile
// as they lie in memory. Rows, with zeros around, are copied into the cache; two rows of results at a time read four.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "amx/tiles.h"
#include "convolutions.h"

namespace htc::amx {
namespace {

constexpr int kOutputs = 32;       // two tiles' columns, the block in registers
constexpr int64_t kColumns = 128;  // pixels of a row that stay in the cache
constexpr int64_t kPairsOfRows = 8;
constexpr int kTaps = 9;

// Kept between calls: fresh memory costs a page fault every 4 KB.
uint16_t* scratch(int64_t count) {
  struct Free {
    void operator()(uint16_t* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<uint16_t[], Free> memory;
  thread_local int64_t size = 0;
  if (size < count) {
    memory.reset();
    size = (count + 31) / 32 * 32;
    memory.reset(static_cast<uint16_t*>(std::aligned_alloc(64, static_cast<size_t>(size) * 2)));
    if (!memory) throw std::bad_alloc();
  }
  return memory.get();
}

// A part of an image, as wide as stays in the cache, and what its tiles are.
struct Strip {
  int64_t image, first, last;  // columns of the result
  int rows;                    // pixels of a tile; the last tile lies over the one before where they do not divide
  int64_t width, step;         // of a line in the cache: pixels with their neighbours, elements
};

class Convolve {
 public:
  Convolve(const Convolution3x3& op, uint16_t* lines, float* sums) : op_(op), lines_(lines), sums_(sums) {}

  // Rows 2 * begin ... 2 * end - 1 of the result.
  void run(const Strip& strip, int64_t begin, int64_t end) {
    strip_ = strip;
    const Tiles tiles(strip.rows);
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t y = 2 * pair;
      for (int64_t row = pair == begin ? y - 1 : y + 1; row <= y + 2; ++row) read(row);
      for (int64_t x = strip.first; x < strip.last; x += strip.rows)
        for (int64_t o = 0; o < op_.outputs; o += kOutputs) {
          const int64_t at = std::min(x, strip.last - strip.rows);
          multiply(y, at - strip.first, o);
          write(y, at, o);
        }
    }
  }

 private:
  uint16_t* line(int64_t row) const { return lines_ + (row & 3) * strip_.step; }

  // One row of the image with its neighbours to the left and the right, zeros where it has none.
  void read(int64_t row) const {
    uint16_t* out = line(row);
    const int64_t pixel = op_.channels * 2;
    if (row < 0 || row >= op_.height) {
      std::memset(out, 0, static_cast<size_t>(strip_.width * pixel));
      return;
    }
    const int64_t left = std::max<int64_t>(strip_.first - 1, 0), right = std::min(strip_.last + 1, op_.width);
    const int64_t before = left - (strip_.first - 1), count = right - left;
    const uint16_t* in =
        static_cast<const uint16_t*>(op_.x) + ((strip_.image * op_.height + row) * op_.width + left) * op_.channels;
    if (before) std::memset(out, 0, static_cast<size_t>(pixel));
    std::memcpy(out + before * op_.channels, in, static_cast<size_t>(count * pixel));
    if (before + count < strip_.width)
      std::memset(out + (before + count) * op_.channels, 0, static_cast<size_t>(pixel));
  }

  // The sums of 32 outputs for a tile's pixels from column x of the strip, in rows y and y + 1.
  void multiply(int64_t y, int64_t x, int64_t o) const {
    const int64_t stride = op_.channels * 2, blocks = op_.channels / kDepth;
    const uint16_t* weights = static_cast<const uint16_t*>(op_.packed) + o * kTaps * op_.channels;
    const uint16_t* rows[4];
    for (int i = 0; i < 4; ++i) rows[i] = line(y - 1 + i) + x * op_.channels;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    // Each row is loaded once for both rows of the result: ten loads for twelve products.
    for (int dx = 0; dx < 3; ++dx)
      for (int64_t block = 0; block < blocks; ++block, weights += 6 * kTileElements) {
        const int64_t from = dx * op_.channels + block * kDepth;
        _tile_loadd(6, weights, 64);
        _tile_loadd(7, weights + kTileElements, 64);
        _tile_loadd(4, rows[0] + from, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, rows[1] + from, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, weights + 2 * kTileElements, 64);
        _tile_loadd(7, weights + 3 * kTileElements, 64);
        _tile_dpbf16ps(0, 5, 6);
        _tile_dpbf16ps(1, 5, 7);
        _tile_loadd(4, rows[2] + from, stride);
        _tile_dpbf16ps(2, 4, 6);
        _tile_dpbf16ps(3, 4, 7);
        _tile_loadd(6, weights + 4 * kTileElements, 64);
        _tile_loadd(7, weights + 5 * kTileElements, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, rows[3] + from, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    _tile_stored(0, sums_, 64);
    _tile_stored(1, sums_ + 256, 64);
    _tile_stored(2, sums_ + 512, 64);
    _tile_stored(3, sums_ + 768, 64);
  }

  void write(int64_t y, int64_t x, int64_t o) const {
    const __m512 none = _mm512_setzero_ps();
    const __m512 low = op_.bias ? _mm512_loadu_ps(op_.bias + o) : none,
                 high = op_.bias ? _mm512_loadu_ps(op_.bias + o + 16) : none;
    const int64_t last = std::min<int64_t>(2, op_.height - y);
    for (int64_t row = 0; row < last; ++row) {
      uint16_t* out = static_cast<uint16_t*>(op_.out) +
                      ((strip_.image * op_.height + y + row) * op_.width + x) * op_.outputs + o;
      const float* sums = sums_ + row * 512;
      for (int p = 0; p < strip_.rows; ++p, out += op_.outputs) {
        __m512 first = _mm512_add_ps(_mm512_load_ps(sums + p * 16), low),
               second = _mm512_add_ps(_mm512_load_ps(sums + 256 + p * 16), high);
        if (op_.relu) {  // what is no number stays so
          first = _mm512_max_ps(none, first);
          second = _mm512_max_ps(none, second);
        }
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(second, first));
      }
    }
  }

  const Convolution3x3& op_;
  uint16_t* lines_;
  float* sums_;
  Strip strip_{};
};

// Pieces of about equal width, of whole tiles.
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
    const int64_t step = (count + 2) * op.channels;
    return {image, first, last, static_cast<int>((count + tiles - 1) / tiles), count + 2, step};
  }
};

}  // namespace

void convolution3x3_weights(const Convolution3x3Weights& op, const Parallel& parallel) {
  const int64_t blocks = op.channels / kDepth;
  parallel(op.outputs / kOutputs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      uint16_t* out = static_cast<uint16_t*>(op.packed) + group * kOutputs * kTaps * op.channels;
      for (int64_t dx = 0; dx < 3; ++dx)
        for (int64_t block = 0; block < blocks; ++block)
          for (int64_t dy = 0; dy < 3; ++dy)
            for (int64_t half = 0; half < 2; ++half)
              for (int64_t pair = 0; pair < kPairs; ++pair)
                for (int64_t o = 0; o < kOutputs / 2; ++o)
                  for (int64_t one = 0; one < 2; ++one)
                    *out++ = op.weight[(group * kOutputs + half * 16 + o) * op.stride_o +
                                       (block * kDepth + pair * 2 + one) * op.stride_c + dy * op.stride_h +
                                       dx * op.stride_w];
    }
  });
}

void convolution3x3(const Convolution3x3& op, const Parallel& parallel) {
  const Layout layout(op.width);
  const int64_t pairs = (op.height + 1) / 2;
  // Few rows are dealt out in smaller portions, so that no thread goes without.
  const int64_t all = op.images * layout.strips * pairs;
  const int64_t portion = std::clamp<int64_t>((all + 7) / 8, 1, std::min(kPairsOfRows, pairs));
  const int64_t bands = (pairs + portion - 1) / portion, items = op.images * layout.strips * bands;
  const int64_t step = (layout.columns + 2) * op.channels;
  std::atomic<int64_t> next{0};
  parallel(items, 1, [&](int64_t, int64_t) {
    alignas(64) float sums[4 * 256];
    Convolve convolve(op, scratch(4 * step), sums);
    for (int64_t item; (item = next.fetch_add(1)) < items;) {
      const int64_t band = item % bands, strip = item / bands % layout.strips;
      convolve.run(layout.of(item / bands / layout.strips, strip, op), band * portion,
                   std::min(pairs, (band + 1) * portion));
    }
  });
}

}  // namespace htc::amx
