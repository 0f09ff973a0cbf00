// 1x1 convolutions as products of the matrix unit: maps are pixels x channels, and a tile of them lies in memory as it
// is. Weights stay in the cache, as many outputs' as it has room for, and 32 pixels at a time meet all of them.
#include <algorithm>
#include <atomic>

#include "amx/finish.h"
#include "amx/pixels.h"
#include "amx/scratch.h"
#include "amx/tiles.h"
#include "convolutions.h"

namespace htc::amx {
namespace {

constexpr int64_t kPanel = 2 * kRows;    // pixels whose sums are in registers
constexpr int64_t kOutputs = 32;         // and outputs
constexpr int64_t kWeights = 512 << 10;  // elements that stay in the cache, half of its 2 MB
constexpr int64_t kLarge = 2 << 20;      // elements of a result beyond the caches
constexpr int64_t kPortions = 16;        // that all pixels are dealt out in, at least
constexpr int64_t kBand = 768 << 10;     // elements of both maps whose pixels are summed over before the next come
constexpr int64_t kMostChannels = 1024;  // of the longer side that are taken at once

inline void fetch(const uint16_t* line) { _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1); }

// What is as large is not in the cache when it is read again.
inline bool streams(const Pointwise& op) {
  return op.pixels * op.outputs >= kLarge && reinterpret_cast<uintptr_t>(op.out) % 64 == 0;
}

class Product {
 public:
  explicit Product(const Pointwise& op) : op_(op), finish_(op.bias, op.relu, streams(op)) {}

  // Outputs from ... to - 1 of up to 32 pixels. Of fewer the two tiles lie over each other where they do not divide.
  void run(int64_t first, int64_t from, int64_t to) {
    const int64_t count = std::min(kPanel, op_.pixels - first), rows = (count + 1) / 2;
    const Tiles tiles(static_cast<int>(rows));
    const uint16_t* x = static_cast<const uint16_t*>(op_.x) + first * op_.channels;
    // The next pixels of x and other come in equal shares with every block of outputs.
    const bool more = first + 2 * kPanel <= op_.pixels;
    const int64_t lines = more ? kPanel * kOutputs / (to - from) : 0;
    const uint16_t* next = x + kPanel * op_.channels;
    for (int64_t o = from; o < to; o += kOutputs) {
      multiply(x, x + (count - rows) * op_.channels, o, next, lines);
      next += lines * op_.channels;
      const int64_t at = first * op_.outputs + o;
      const uint16_t* other = op_.other ? static_cast<const uint16_t*>(op_.other) + at : nullptr;
      uint16_t* out = static_cast<uint16_t*>(op_.out) + at;
      for (int64_t p = 0; p < count; ++p, out += op_.outputs) {
        finish_(sums_ + (p < rows ? p * 16 : 512 + (p - count + rows) * 16), o, other, out);
        if (!other) continue;
        if (more) fetch(other + kPanel * op_.outputs);
        other += op_.outputs;
      }
    }
  }

 private:
  void multiply(const uint16_t* low, const uint16_t* high, int64_t o, const uint16_t* next, int64_t lines) {
    const uint16_t* weights = static_cast<const uint16_t*>(op_.packed) + o * op_.channels;
    const int64_t stride = op_.channels * 2;
    clear_sums();
    for (int64_t c = 0; c < op_.channels; c += kDepth, weights += 2 * kTileElements) {
      _tile_loadd(4, low + c, stride);
      _tile_loadd(6, weights, 64);
      _tile_loadd(7, weights + kTileElements, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, high + c, stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      for (int64_t line = 0; line < lines; ++line, next += kDepth) fetch(next);
    }
    store_sums(sums_);
  }

  const Pointwise& op_;
  const Finish finish_;
  alignas(64) float sums_[4 * 256];
};

class Gradient {
 public:
  // Blocks of outputs and of channels.
  Gradient(const PointwiseGradient& op, int64_t first_output, int64_t outputs, int64_t first_channel, int64_t channels)
      : op_(op), first_output_(first_output), outputs_(outputs), first_channel_(first_channel), channels_(channels) {
    // The same whatever the number of threads.
    band_ = kBand / (std::min(op.channels, kMostChannels) + std::min(op.outputs, kMostChannels));
    band_ = std::clamp<int64_t>(band_ / kDepth * kDepth, 256, 1024);
    grad_ = scratch((outputs + channels) * band_ * kBlock);
    x_ = grad_ + outputs * band_ * kBlock;
  }

  void run() const {
    const Tiles tiles(kRows);
    for (int64_t first = 0; first < op_.pixels; first += band_) {
      const int64_t last = std::min(op_.pixels, first + band_), steps = (last - first + kDepth - 1) / kDepth;
      for (int64_t step = 0; step < steps; ++step) lay_out(first + step * kDepth, step, steps);
      for (int64_t o = 0; o < outputs_; ++o) {
        const int64_t output = first_output_ + o;
        const uint16_t* grad = grad_ + o * steps * 2 * kTileElements;
        if (op_.bias && first_channel_ == 0) {
          add_outputs(grad, steps, first == 0, op_.bias_sums + output * 2 * 256);
          if (last == op_.pixels) write_outputs(op_.bias_sums + output * 2 * 256, op_.bias + output * kBlock);
        }
        for (int64_t c = 0; c < channels_; ++c) {
          const int64_t channel = first_channel_ + c;
          float* sums = op_.sums + (output * (op_.channels / kBlock) + channel) * 4 * 256;
          const uint16_t* x = x_ + c * steps * 2 * kTileElements;
          add_products(grad, x, x + kTileElements, 2 * kTileElements, steps, first == 0, sums);
          if (last == op_.pixels)
            write_sums(sums, op_.out + output * kBlock * op_.channels + channel * kBlock, op_.channels);
        }
      }
    }
  }

 private:
  // 32 pixels of both maps, zeros behind the last.
  void lay_out(int64_t pixel, int64_t step, int64_t steps) const {
    const auto load = [&](const void* map, int64_t p, int64_t channels, int64_t block) {
      const uint16_t* in = static_cast<const uint16_t*>(map) + (pixel + p) * channels + block * kBlock;
      fetch(in + kDepth * channels);
      return _mm512_loadu_si512(pixel + p < op_.pixels ? in : kZeros);
    };
    for (int64_t o = 0; o < outputs_; ++o)
      transpose([&](int64_t p) { return load(op_.grad, p, op_.outputs, first_output_ + o); },
                grad_ + (o * steps + step) * 2 * kTileElements);
    for (int64_t c = 0; c < channels_; ++c) {
      uint16_t* out = x_ + (c * steps + step) * 2 * kTileElements;
      for (int64_t p = 0; p < kDepth; p += 2, out += kDepth)
        interleave(load(op_.x, p, op_.channels, first_channel_ + c),
                   load(op_.x, p + 1, op_.channels, first_channel_ + c), out, out + kTileElements);
    }
  }

  const PointwiseGradient& op_;
  const int64_t first_output_, outputs_, first_channel_, channels_;
  int64_t band_;
  uint16_t *grad_, *x_;
};

}  // namespace

void pointwise(const Pointwise& op, const Parallel& parallel) {
  const int64_t chunk = std::max<int64_t>(1, std::min(op.outputs, kWeights / op.channels) / kOutputs) * kOutputs;
  const int64_t panels = (op.pixels + kPanel - 1) / kPanel, portion = std::clamp<int64_t>(panels / kPortions, 1, 32);
  const int64_t portions = (panels + portion - 1) / portion, chunks = (op.outputs + chunk - 1) / chunk;
  std::atomic<int64_t> next{0};
  parallel(chunks * portions, 1, [&](int64_t, int64_t) {
    Product product(op);
    for (int64_t item; (item = next.fetch_add(1)) < chunks * portions;) {
      const int64_t from = item / portions * chunk, first = item % portions * portion;
      for (int64_t panel = first; panel < std::min(panels, first + portion); ++panel)
        product.run(panel * kPanel, from, std::min(op.outputs, from + chunk));
    }
  });
}

void pointwise_gradient(const PointwiseGradient& op, const Parallel& parallel) {
  const int64_t outputs = op.outputs / kBlock, channels = op.channels / kBlock, most = kMostChannels / kBlock;
  const bool wide = channels > outputs;  // the longer side is dealt out: each thread lays out all of the other
  parallel(wide ? channels : outputs, 1, [&](int64_t begin, int64_t end) {
    for (; begin < end; begin += most) {
      const int64_t count = std::min(most, end - begin);
      if (wide) {
        Gradient(op, 0, outputs, begin, count).run();
      } else {
        Gradient(op, begin, count, 0, channels).run();
      }
    }
  });
}

}  // namespace htc::amx
