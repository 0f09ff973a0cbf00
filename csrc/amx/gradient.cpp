// The gradient of a 3x3 convolution's weights as products of the matrix unit that sum over pixels. A band of rows (of
// many images, where they are small) is taken as one line of pixels: all images' first row, then all images' second,
// with a zero behind each. On that line a tap is a distance. First factors are outputs x 32 pixels, so grad is
// transposed; second factors are 16 pairs of pixels x channels, so x is interleaved, once with pairs that begin at
// even pixels and once at odd ones: every tap then finds its tile as it lies in memory.
#include <algorithm>
#include <vector>

#include "amx/pixels.h"
#include "amx/scratch.h"
#include "amx/tiles.h"
#include "convolutions.h"

namespace htc::amx {
namespace {

constexpr int64_t kPixels = 2048;       // about as many make a band, so that it lies in the cache
constexpr int64_t kSums = 9 * 4 * 256;  // of a block of outputs and one of channels: [tap, output half, channel half]

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
            if (op_.bias && c == 0) sum_outputs(o, first, last);
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
    for (int64_t step = 0; step < steps_; ++step, at += kDepth, out += 2 * kTileElements)
      amx::transpose(
          [&](int64_t p) {
            return load(op_.grad, step * kDepth + p < pixels_ ? at[p] : -1, op_.outputs, block * kBlock);
          },
          out);
  }

  // Pairs [first pixel odd, channel half, pair] of x.
  void interleave(int64_t block) const {
    const int64_t count = static_cast<int64_t>(at_.size()) - 1;
    __m512i one = load(op_.x, at_[0], op_.channels, block * kBlock);
    for (int64_t p = 0; p < count; ++p) {
      const __m512i next = load(op_.x, at_[p + 1], op_.channels, block * kBlock);
      uint16_t* out = x_ + (p % 2 * 2 * pairs_ + p / 2) * kDepth;
      amx::interleave(one, next, out, out + pairs_ * kDepth);
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
    add_products(grad + first * 2 * kTileElements, low, low + pairs_ * kDepth, kTileElements, last - first, fresh,
                 sums);
  }

  void sum_outputs(int64_t o, bool first, bool last) const {
    float* sums = op_.bias_sums + (first_output_ + o) * 2 * 256;
    add_outputs(grad_ + o * steps_ * 2 * kTileElements, steps_, first, sums);
    if (last) write_outputs(sums, op_.bias + (first_output_ + o) * kBlock);
  }

  void write(int64_t block) const {
    float* out = op_.out + block / across_ * kBlock * 9 * op_.channels + block % across_ * kBlock;
    for (int64_t tap = 0; tap < 9; ++tap, out += op_.channels)
      write_sums(op_.sums + block * kSums + tap * 4 * 256, out, 9 * op_.channels);
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
