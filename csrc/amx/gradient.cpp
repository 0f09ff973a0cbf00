// The gradient of a 3x3 convolution's weights as products of the matrix unit that sum over pixels. A band of rows (of
// many images, where they are small) is taken as one line of pixels: all images' first row, then all images' second,
// with a zero behind each. On that line a tap is a distance. First factors are outputs x 32 pixels, so grad is
// transposed; second factors are 16 pairs of pixels x channels, so x is interleaved, once with pairs that begin at
// even pixels and once at odd ones: every tap then finds its tile as it lies in memory.
#include <algorithm>
#include <vector>

#include "amx/scratch.h"
#include "amx/tiles.h"
#include "convolutions.h"

namespace htc::amx {
namespace {

constexpr int kBlock = 32;              // outputs, and channels, whose sums are in registers: two tiles each
constexpr int64_t kPixels = 2048;       // about as many make a band, so that it lies in the cache
constexpr int64_t kSums = 9 * 4 * 256;  // of a block of outputs and one of channels: [tap, output half, channel half]
alignas(64) constexpr uint16_t kZeros[kBlock] = {};

// How maps are cut into bands, the same whatever the number of threads.
struct Bands {
  int64_t images, rows;       // of a band: all rows of several images, or rows of one
  int64_t groups, per_group;  // of images; bands of rows in each
  explicit Bands(const Convolution3x3Gradient& op) {
    const int64_t row = op.width + 1, map = op.height * row;
    const int64_t most = std::max<int64_t>(1, kPixels / map);
    groups = (op.images + most - 1) / most;
    images = (op.images + groups - 1) / groups;
    groups = (op.images + images - 1) / images;
    per_group = std::min(op.height, (map + kPixels - 1) / kPixels);
    if (images > 1) per_group = 1;
    rows = (op.height + per_group - 1) / per_group;
    per_group = (op.height + rows - 1) / rows;
  }
};

class Gradient {
 public:
  // Blocks begin ... end - 1 of outputs x channels, channels counting first.
  Gradient(const Convolution3x3Gradient& op, int64_t begin, int64_t end)
      : op_(op), begin_(begin), end_(end), bands_(op), across_(op.channels / kBlock) {
    first_output_ = begin / across_;
    outputs_ = (end - 1) / across_ - first_output_ + 1;
    first_channel_ = outputs_ == 1 ? begin % across_ : 0;
    channels_ = outputs_ == 1 ? end - begin : across_;
    const int64_t line = bands_.images * (op.width + 1);
    steps_ = (bands_.rows * line + kDepth - 1) / kDepth;
    pairs_ = steps_ * kPairs + line + 2;
    grad_ = scratch(outputs_ * steps_ * 2 * kTileElements + 4 * pairs_ * kDepth);
    x_ = grad_ + outputs_ * steps_ * 2 * kTileElements;
  }

  void run() {
    const Tiles tiles(kRows);
    for (int64_t group = 0; group < bands_.groups; ++group)
      for (int64_t part = 0; part < bands_.per_group; ++part) {
        const bool first = group == 0 && part == 0, last = group == bands_.groups - 1 && part == bands_.per_group - 1;
        lay_out(group * bands_.images, part * bands_.rows);
        for (int64_t o = 0; o < outputs_; ++o) transpose(first_output_ + o, grad_ + o * steps_ * 2 * kTileElements);
        for (int64_t c = first_channel_; c < first_channel_ + channels_; ++c) {
          interleave(c);
          for (int64_t o = 0; o < outputs_; ++o) {
            const int64_t block = (first_output_ + o) * across_ + c;
            if (block < begin_ || block >= end_) continue;
            multiply(grad_ + o * steps_ * 2 * kTileElements, op_.sums + block * kSums, first);
            if (last) write(block);
          }
        }
      }
  }

 private:
  // The line of pixels: of each its number in the maps, -1 for zeros. A row above and one below belong to it.
  void lay_out(int64_t image, int64_t row) {
    const int64_t images = std::min(bands_.images, op_.images - image), rows = std::min(bands_.rows, op_.height - row);
    line_ = images * (op_.width + 1);
    pixels_ = rows * line_;
    steps_ = (pixels_ + kDepth - 1) / kDepth;
    top_ = row == 0 ? line_ / kDepth : 0;
    bottom_ = row + rows == op_.height ? (pixels_ - line_ + kDepth - 1) / kDepth : steps_;
    at_.assign(steps_ * kDepth + 2 * line_ + 3, -1);
    for (int64_t r = 0; r < rows + 2; ++r) {
      const int64_t y = row - 1 + r;
      if (y < 0 || y >= op_.height) continue;
      for (int64_t n = 0; n < images; ++n) {
        int64_t* at = at_.data() + 1 + r * line_ + n * (op_.width + 1);
        for (int64_t x = 0; x < op_.width; ++x) at[x] = ((image + n) * op_.height + y) * op_.width + x;
      }
    }
  }

  // 32 numbers of a pixel.
  static __m512i load(const void* map, int64_t pixel, int64_t channels, int64_t from) {
    return _mm512_loadu_si512(pixel < 0 ? kZeros : static_cast<const uint16_t*>(map) + pixel * channels + from);
  }

  // Tiles [step, output half] of grad: 16 outputs x 32 pixels.
  void transpose(int64_t block, uint16_t* out) const {
    const int64_t* at = at_.data() + 1 + line_;
    for (int64_t step = 0; step < steps_; ++step, out += 2 * kTileElements) {
      __m512i low[kPairs], high[kPairs];
      for (int64_t pair = 0; pair < kPairs; ++pair) {
        const int64_t p = step * kDepth + 2 * pair;
        const __m512i even = load(op_.grad, p < pixels_ ? at[p] : -1, op_.outputs, block * kBlock),
                      odd = load(op_.grad, p + 1 < pixels_ ? at[p + 1] : -1, op_.outputs, block * kBlock);
        low[pair] = _mm512_unpacklo_epi16(even, odd);
        high[pair] = _mm512_unpackhi_epi16(even, odd);
      }
      turn(low);
      turn(high);
      for (int o = 0; o < 16; ++o) {  // low held outputs 0-3, 8-11, ... and high those between
        const int to = o / 4 * 8 + o % 4;
        _mm512_store_si512(out + to * kDepth, low[o]);
        _mm512_store_si512(out + (to + 4) * kDepth, high[o]);
      }
    }
  }

  // 16 x 16 numbers of 32 bits, transposed.
  static void turn(__m512i (&m)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 4) {
      const __m512i a = _mm512_unpacklo_epi32(m[i], m[i + 1]), b = _mm512_unpackhi_epi32(m[i], m[i + 1]),
                    c = _mm512_unpacklo_epi32(m[i + 2], m[i + 3]), d = _mm512_unpackhi_epi32(m[i + 2], m[i + 3]);
      t[i] = _mm512_unpacklo_epi64(a, c);
      t[i + 1] = _mm512_unpackhi_epi64(a, c);
      t[i + 2] = _mm512_unpacklo_epi64(b, d);
      t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int i = 0; i < 4; ++i) {
      const __m512i a = _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88), b = _mm512_shuffle_i32x4(t[i], t[4 + i], 0xdd),
                    c = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88),
                    d = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xdd);
      m[i] = _mm512_shuffle_i32x4(a, c, 0x88);
      m[4 + i] = _mm512_shuffle_i32x4(b, d, 0x88);
      m[8 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
      m[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
  }

  // Pairs [first pixel odd, channel half, pair] of x, of 16 channels, which lie 0-3, 8-11, ... and 4-7, 12-15, ...
  void interleave(int64_t block) const {
    const int64_t count = static_cast<int64_t>(at_.size()) - 1;
    __m512i one = load(op_.x, at_[0], op_.channels, block * kBlock);
    for (int64_t p = 0; p < count; ++p) {
      const __m512i next = load(op_.x, at_[p + 1], op_.channels, block * kBlock);
      uint16_t* out = x_ + (p % 2 * 2 * pairs_ + p / 2) * kDepth;
      _mm512_store_si512(out, _mm512_unpacklo_epi16(one, next));
      _mm512_store_si512(out + pairs_ * kDepth, _mm512_unpackhi_epi16(one, next));
      one = next;
    }
  }

  void multiply(const uint16_t* grad, float* sums, bool fresh) const {
    for (int64_t dy = 0; dy < 3; ++dy)
      for (int64_t dx : {0, 2, 1})  // the first two find each other's tiles in the first cache
        tap(grad, sums + (dy * 3 + dx) * 4 * 256, dy * line_ + dx, dy == 0 ? top_ : 0, dy == 2 ? bottom_ : steps_,
            fresh);
  }

  // The sums of 32 outputs x 32 channels over tiles first ... last - 1 of pixels.
  void tap(const uint16_t* grad, float* sums, int64_t distance, int64_t first, int64_t last, bool fresh) const {
    const uint16_t* low = x_ + (distance % 2 * 2 * pairs_ + distance / 2 + first * kPairs) * kDepth;
    const uint16_t* high = low + pairs_ * kDepth;
    written();
    if (fresh) {
      clear_sums();
    } else {
      load_sums(sums);
    }
    grad += first * 2 * kTileElements;
    for (; first < last; ++first) {
      _tile_loadd(4, grad, 64);
      _tile_loadd(6, low, 64);
      _tile_loadd(7, high, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, grad + kTileElements, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      grad += 2 * kTileElements;
      low += kTileElements;
      high += kTileElements;
    }
    store_sums(sums);
  }

  void write(int64_t block) const {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    const float* sums = op_.sums + block * kSums;
    for (int64_t o = 0; o < kBlock; ++o)
      for (int64_t tap = 0; tap < 9; ++tap) {
        const float* row = sums + tap * 4 * 256 + o / 16 * 512 + o % 16 * 16;
        const __m512 even = _mm512_loadu_ps(row), odd = _mm512_loadu_ps(row + 256);
        float* out = op_.out + ((block / across_ * kBlock + o) * 9 + tap) * op_.channels + block % across_ * kBlock;
        _mm512_storeu_ps(out, _mm512_permutex2var_ps(even, low, odd));
        _mm512_storeu_ps(out + 16, _mm512_permutex2var_ps(even, high, odd));
      }
  }

  const Convolution3x3Gradient& op_;
  const int64_t begin_, end_;
  const Bands bands_;
  const int64_t across_;                                       // blocks of channels
  int64_t first_output_, outputs_, first_channel_, channels_;  // in blocks
  int64_t line_, pixels_, steps_, pairs_;  // of the band: distance of a pixel and the one below it; tiles of pixels
  int64_t top_, bottom_;                   // tiles of pixels before and behind which another row is not in the map
  std::vector<int64_t> at_;
  uint16_t *grad_, *x_;
};

}  // namespace

void convolution3x3_gradient(const Convolution3x3Gradient& op, const Parallel& parallel) {
  parallel(op.outputs / kBlock * (op.channels / kBlock), 1,
           [&](int64_t begin, int64_t end) { Gradient(op, begin, end).run(); });
}

}  // namespace htc::amx
