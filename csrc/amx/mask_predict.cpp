// The end of a mask head as products of the matrix unit: 32 pixels of any maps meet 32 outputs of one of the four taps,
// and what that gives goes through the ReLU into the pixel's logit at once. Nothing that is up-sampled is written.
#include <algorithm>
#include <atomic>

#include "amx/scratch.h"
#include "amx/tiles.h"
#include "convolutions.h"

namespace htc::amx {
namespace {

constexpr int64_t kBlock = 32;  // pixels, and outputs, whose sums are in registers: two tiles each
constexpr int kTaps = 4;

class Predict {
 public:
  explicit Predict(const MaskPredict& op)
      : op_(op), map_(op.height * op.width), pixels_(op.count * map_), stride_(op.channels * 2) {}

  // Pixels at ... at + 31 of all maps, of which the last may be missing.
  void run(int64_t at, uint16_t* spare) {
    const int64_t count = std::min(kBlock, pixels_ - at);
    const uint16_t* in = static_cast<const uint16_t*>(op_.x) + at * op_.channels;
    if (count < kBlock) {
      std::copy_n(in, count * op_.channels, spare);
      std::fill_n(spare + count * op_.channels, (kBlock - count) * op_.channels, uint16_t{0});
      in = spare;
    }
    for (int64_t p = 0; p < kBlock; ++p) own_[p] = op_.own + std::min(at + p, pixels_ - 1) / map_ * op_.outputs;
    const uint16_t* weights = static_cast<const uint16_t*>(op_.packed);
    const int64_t blocks = op_.outputs / kBlock, all = kTaps * blocks;
    for (int64_t block = 0; block <= all; ++block, weights += kBlock * op_.channels) {
      if (block < all) {
        multiply(in, weights, block, block ? (block - 1) % blocks * kBlock : -1);
      } else {
        take(sums_[(block + 1) % 2], (blocks - 1) * kBlock, 0, kBlock);
      }
      if (block == 0 || block % blocks != 0) continue;
      for (int64_t p = 0; p < count; ++p) write(at + p, block / blocks - 1, logits_ + p * 16);
    }
  }

 private:
  // Sums of a block; those of the one before are taken meanwhile, as vectors and tiles are computed side by side.
  void multiply(const uint16_t* in, const uint16_t* weights, int64_t block, int64_t before) {
    const int64_t step = (kBlock * kDepth + op_.channels - 1) / op_.channels;
    written();
    clear_sums();
    int64_t p = before < 0 ? kBlock : 0;
    for (int64_t c = 0; c < op_.channels; c += kDepth, weights += 2 * kTileElements) {
      _tile_loadd(4, in + c, stride_);
      _tile_loadd(6, weights, 64);
      _tile_loadd(7, weights + kTileElements, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, in + 16 * op_.channels + c, stride_);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      if (p < kBlock) take(sums_[(block + 1) % 2], before, p, std::min(p + step, kBlock));
      p += step;
    }
    store_sums(sums_[block % 2]);
  }

  // Of pixels first ... last - 1, outputs o ... o + 31 into the logits.
  void take(const float* all, int64_t o, int64_t first, int64_t last) {
    const __m512 none = _mm512_setzero_ps(), low_bias = _mm512_loadu_ps(op_.up_bias + o),
                 high_bias = _mm512_loadu_ps(op_.up_bias + o + 16);
    for (int64_t p = first; p < last; ++p) {
      const float* sums = all + p / 16 * 512 + p % 16 * 16;
      // What is no number stays so.
      const __m512 low = _mm512_max_ps(none, _mm512_add_ps(_mm512_load_ps(sums), low_bias)),
                   high = _mm512_max_ps(none, _mm512_add_ps(_mm512_load_ps(sums + 256), high_bias));
      __m512 logit = o == 0 ? none : _mm512_load_ps(logits_ + p * 16);
      logit = _mm512_fmadd_ps(low, _mm512_loadu_ps(own_[p] + o), logit);
      logit = _mm512_fmadd_ps(high, _mm512_loadu_ps(own_[p] + o + 16), logit);
      _mm512_store_ps(logits_ + p * 16, logit);
    }
  }

  void write(int64_t pixel, int64_t tap, const float* parts) const {
    const int64_t map = pixel / map_, y = pixel % map_ / op_.width, x = pixel % op_.width;
    const __m128bh rounded = _mm_cvtneps_pbh(_mm_set_ss(_mm512_reduce_add_ps(_mm512_load_ps(parts)) + op_.added[map]));
    const int64_t to = (map * op_.height * 2 + 2 * y + tap / 2) * op_.width * 2 + 2 * x + tap % 2;
    static_cast<uint16_t*>(op_.out)[to] = static_cast<uint16_t>(_mm_extract_epi16((__m128i)rounded, 0));
  }

  const MaskPredict& op_;
  const int64_t map_, pixels_, stride_;
  const float* own_[kBlock];  // of each pixel's map
  alignas(64) float sums_[2][4 * 256];
  alignas(64) float logits_[kBlock * 16];  // of each pixel, in sixteen parts
};

}  // namespace

void mask_predict(const MaskPredict& op, const Parallel& parallel) {
  const int64_t blocks = (op.count * op.height * op.width + kBlock - 1) / kBlock;
  std::atomic<int64_t> next{0};
  parallel(blocks, 1, [&](int64_t, int64_t) {
    const Tiles tiles(kRows);
    Predict predict(op);
    for (int64_t block; (block = next.fetch_add(1)) < blocks;)
      predict.run(block * kBlock, scratch(kBlock * op.channels));
  });
}

}  // namespace htc::amx
