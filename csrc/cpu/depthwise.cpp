// Depthwise convolutions over maps whose channels lie together, forwards and backwards: a vector of channels at a time,
// a few pixels of a row beside each other. Gradients of weights are summed by bands of rows, in one order whatever the
// number of threads.
#include <algorithm>

#include "convolutions.h"
#include "cpu/simd.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

constexpr int kPixels = 4;

// Pixels [begin, begin + count) of a row of the result, for one vector of channels.
template <int K, class T>
void pixels(const Depthwise& op, const T* image, int64_t y, int64_t begin, int64_t count, int64_t c, T* out) {
  const Vec bias = op.bias ? load(op.bias + c) : Vec{};
  Vec sum[kPixels] = {bias, bias, bias, bias};
  const int64_t left = begin * op.stride - op.left, last = left + (kPixels - 1) * op.stride + K;
  const bool inside = count == kPixels && left >= 0 && last <= op.width;
  for (int i = 0; i < K; ++i) {
    const int64_t row = y * op.stride + i - op.top;
    if (row < 0 || row >= op.height) continue;
    const T* from = image + row * op.width * op.channels + c;
    for (int j = 0; j < K; ++j) {
      const int tap = op.flipped ? K * K - 1 - (i * K + j) : i * K + j;
      const Vec weight = load(op.weight + tap * op.channels + c);
      if (inside) {
        for (int p = 0; p < kPixels; ++p)
          sum[p] = fma(weight, load(from + (left + p * op.stride + j) * op.channels), sum[p]);
      } else {
        for (int p = 0; p < count; ++p) {
          const int64_t column = left + p * op.stride + j;
          if (column >= 0 && column < op.width) sum[p] = fma(weight, load(from + column * op.channels), sum[p]);
        }
      }
    }
  }
  for (int p = 0; p < count; ++p) {
    const Vec value = op.high > 0 ? smaller(spread(op.high), larger(Vec{}, sum[p])) : sum[p];
    store(out + (begin + p) * op.channels + c, value);
  }
}

template <int K, class T>
void convolve(const Depthwise& op, const Parallel& parallel) {
  parallel(op.images * op.out_height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* image = static_cast<const T*>(op.x) + row / op.out_height * op.height * op.width * op.channels;
      T* out = static_cast<T*>(op.out) + row * op.out_width * op.channels;
      for (int64_t c = 0; c < op.channels; c += kWidth)
        for (int64_t x = 0; x < op.out_width; x += kPixels)
          pixels<K>(op, image, row % op.out_height, x, std::min<int64_t>(kPixels, op.out_width - x), c, out);
    }
  });
}

// Where the activation was cut off, nothing flows back.
template <class T>
void open(const DepthwiseBackward& op, const Parallel& parallel) {
  const int64_t row = op.out_width * op.channels;
  parallel(op.images * op.out_height, 1, [&](int64_t begin, int64_t end) {
    const T *grad = static_cast<const T*>(op.grad), *out = static_cast<const T*>(op.out);
    T* opened = static_cast<T*>(op.opened);
    for (int64_t i = begin * row; i < end * row; i += kWidth) {
      const Vec value = load(out + i);
      store(opened + i, (value > Vec{}) & (value < spread(op.high)) ? load(grad + i) : Vec{});
    }
  });
}

// One row of the kernel, over a band of rows of the gradient: K sums for one vector of channels.
template <int K, class T>
void weights_of(const DepthwiseBackward& op, int64_t n, int64_t first, int64_t last, int i, int64_t c, float* sums) {
  const T* image = static_cast<const T*>(op.x) + n * op.height * op.width * op.channels + c;
  const T* grads = static_cast<const T*>(op.opened) + n * op.out_height * op.out_width * op.channels + c;
  Vec sum[K] = {};
  for (int64_t y = first; y < last; ++y) {
    const int64_t row = y * op.stride + i - op.top;
    if (row < 0 || row >= op.height) continue;
    for (int64_t x = 0; x < op.out_width; ++x) {
      const Vec grad = load(grads + (y * op.out_width + x) * op.channels);
      const int64_t left = x * op.stride - op.left;
      const T* from = image + (row * op.width + left) * op.channels;
      if (left >= 0 && left + K <= op.width) {
        for (int j = 0; j < K; ++j) sum[j] = fma(grad, load(from + j * op.channels), sum[j]);
      } else {
        for (int j = 0; j < K; ++j)
          if (left + j >= 0 && left + j < op.width) sum[j] = fma(grad, load(from + j * op.channels), sum[j]);
      }
    }
  }
  for (int j = 0; j < K; ++j) store(sums + (i * K + j) * op.channels + c, sum[j]);
}

template <int K, class T>
void weights(const DepthwiseBackward& op, const Parallel& parallel) {
  const int64_t bands = op.bands, taps = K * K + 1;  // the bias last
  parallel(op.images * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t band = begin; band < end; ++band) {
      const int64_t n = band / bands, first = band % bands * op.out_height / bands,
                    last = (band % bands + 1) * op.out_height / bands;
      float* sums = op.partial + band * taps * op.channels;
      for (int64_t c = 0; c < op.channels; c += kWidth) {
        for (int i = 0; i < K; ++i) weights_of<K, T>(op, n, first, last, i, c, sums);
        const T* grads = static_cast<const T*>(op.opened) + n * op.out_height * op.out_width * op.channels + c;
        Vec sum = {};
        for (int64_t p = first * op.out_width; p < last * op.out_width; ++p) sum += load(grads + p * op.channels);
        store(sums + K * K * op.channels + c, sum);
      }
    }
  });
  for (int64_t band = 1; band < op.images * bands; ++band)
    for (int64_t k = 0; k < taps * op.channels; k += kWidth)
      store(op.partial + k, load(op.partial + k) + load(op.partial + band * taps * op.channels + k));
}

// The gradient of x where the convolution takes steps: what each pixel gave to whom.
// kStride  op.stride where it is known while compiling, for which divisions cost nothing; 0: any
template <int K, int kStride, class T>
void inputs(const DepthwiseBackward& op, const Parallel& parallel) {
  const int64_t stride = kStride ? kStride : op.stride;
  parallel(op.images * op.height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / op.height, h = row % op.height;
      const T* grads = static_cast<const T*>(op.opened) + n * op.out_height * op.out_width * op.channels;
      T* to = static_cast<T*>(op.to_x) + row * op.width * op.channels;
      for (int64_t c = 0; c < op.channels; c += kWidth)
        for (int64_t w = 0; w < op.width; ++w) {
          Vec sum = {};
          for (int64_t i = (h + op.top) % stride; i < K; i += stride) {
            const int64_t y = (h + op.top - i) / stride;
            if (h + op.top < i || y >= op.out_height) continue;
            for (int64_t j = (w + op.left) % stride; j < K; j += stride) {
              const int64_t x = (w + op.left - j) / stride;
              if (w + op.left < j || x >= op.out_width) continue;
              sum = fma(load(op.weight + (i * K + j) * op.channels + c),
                        load(grads + (y * op.out_width + x) * op.channels + c), sum);
            }
          }
          store(to + w * op.channels + c, sum);
        }
    }
  });
}

template <int K, class T>
void differentiate(const DepthwiseBackward& op, const Parallel& parallel) {
  if (op.high > 0) open<T>(op, parallel);
  weights<K, T>(op, parallel);
  if (!op.to_x) return;
  if (op.stride == 2) return inputs<K, 2, T>(op, parallel);
  if (op.stride > 1) return inputs<K, 0, T>(op, parallel);
  // Without steps it is a convolution with the kernel turned around.
  convolve<K, T>({op.dtype, op.images, op.out_height, op.out_width, op.height, op.width, op.channels, K, 1,
                  K - 1 - op.top, K - 1 - op.left, 0.0f, true, op.opened, op.weight, nullptr, op.to_x},
                 parallel);
}

}  // namespace

void depthwise(const Depthwise& op, const Parallel& parallel) {
  const bool half = op.dtype == DType::bf16;
  if (op.kernel == 3) return half ? convolve<3, bf16>(op, parallel) : convolve<3, float>(op, parallel);
  half ? convolve<5, bf16>(op, parallel) : convolve<5, float>(op, parallel);
}

void depthwise_backward(const DepthwiseBackward& op, const Parallel& parallel) {
  const bool half = op.dtype == DType::bf16;
  if (op.kernel == 3) return half ? differentiate<3, bf16>(op, parallel) : differentiate<3, float>(op, parallel);
  half ? differentiate<5, bf16>(op, parallel) : differentiate<5, float>(op, parallel);
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
