// The contents page of convolutions: one plain struct per operator, as in ops.h.
#pragma once
#include "ops.h"

namespace htc {

// 3x3 convolutions with one pixel of padding as products of transformed tiles (Winograd's F(4x4, 3x3)): a quarter of
// the multiplications. Weights [O, C, 3, 3] become `packed`, winograd_floats numbers, once per instruction set's
// layout.
struct WinogradWeights {
  int64_t outputs, channels;
  const float* weight;
  int64_t stride_o, stride_c, stride_h, stride_w;
  float* packed;
};
HTC_CPU_KERNEL(winograd_weights, WinogradWeights)
constexpr int64_t winograd_floats(int64_t outputs, int64_t channels) { return 36 * outputs * channels; }

// x [N, H, W, C] -> out [N, H, W, O] = x * weights + bias, relu if asked for. C is a multiple of 16, O of 32.
struct Winograd {
  DType dtype;  // float32 or bfloat16, of x and out; everything between is float32
  int64_t images, height, width, channels, outputs;
  const void* x;
  const float* packed;
  const float* bias;  // [O] or none
  bool relu;
  void* out;
};
HTC_CPU_KERNEL(winograd, Winograd)

// The gradient of such a convolution's weights: x [N, H, W, C], grad [N, H, W, O] -> out [O, 3, 3, C]. C and O are
// multiples of 32, and there is a pixel.
struct WinogradGradient {
  DType dtype;  // float32 or bfloat16, of x and grad
  int64_t images, height, width, channels, outputs;
  const void *x, *grad;
  int64_t threads;  // how many there are to deal out to; the sums are the same for any number
  float* products;  // winograd_floats(O, C)
  float* out;
};
HTC_CPU_KERNEL(winograd_gradient, WinogradGradient)

// The same convolutions, and 1x1 ones, in bfloat16 on a processor's matrix unit, where there is one. Weights
// [O, C, kernel, kernel] become `packed`, as many as they are, in the order that they are read in. C and O are
// multiples of 32.
struct ConvolutionWeights {
  DType dtype;  // float32 or bfloat16, of weight
  int64_t outputs, channels, kernel;
  const void* weight;
  int64_t stride_o, stride_c, stride_h, stride_w;
  void* packed;
};
struct Convolution3x3 {
  int64_t images, height, width, channels, outputs;
  const void *x, *packed;
  const float* bias;  // [O] or none
  bool relu;
  void* out;
};
// The gradient of its weights: x [N, H, W, C], grad [N, H, W, O] -> out [O, 3, 3, C]. There is a pixel.
struct Convolution3x3Gradient {
  int64_t images, height, width, channels, outputs;
  const void *x, *grad;
  float *sums, *out;        // sums: as many as out
  float *bias_sums, *bias;  // bias_sums: 16 O; bias [O], its gradient, or none
};
// 1x1: x [P, C] -> out [P, O] = x * weights + bias + other, relu if asked for.
struct Pointwise {
  int64_t pixels, channels, outputs;
  const void *x, *packed;
  const float* bias;  // [O] or none
  const void* other;  // [P, O] or none
  bool relu;
  void* out;
};
// The gradients of its weights: x [P, C], grad [P, O] -> out [O, C]. There is a pixel.
struct PointwiseGradient {
  int64_t pixels, channels, outputs;
  const void *x, *grad;
  float *sums, *out;        // sums: as many as out
  float *bias_sums, *bias;  // bias_sums: 16 O; bias [O], its gradient, or none
};
// The end of a mask head for one class of each map: x [K, height, width, C] -> relu(deconvolution, 2x2 with stride 2,
// of x) times `own` -> out [K, 2 height, 2 width]. packed: weights as [tap, O / 32, C / 32, 2, 16, 16, 2], that is
// half of the outputs, pair of channels, output, channel of the pair. C and O are multiples of 32.
struct MaskPredict {
  int64_t count, height, width, channels, outputs;
  const void *x, *packed;
  const float* up_bias;  // [O]
  const float* own;      // [K, O]
  const float* added;    // [K]
  void* out;
};
namespace amx {
#if defined(HTC_AMX)
void mask_predict(const MaskPredict&, const Parallel&);
void convolution_weights(const ConvolutionWeights&, const Parallel&);
void convolution3x3(const Convolution3x3&, const Parallel&);
void convolution3x3_gradient(const Convolution3x3Gradient&, const Parallel&);
void pointwise(const Pointwise&, const Parallel&);
void pointwise_gradient(const PointwiseGradient&, const Parallel&);
#else
inline void mask_predict(const MaskPredict&, const Parallel&) {}
inline void convolution_weights(const ConvolutionWeights&, const Parallel&) {}
inline void convolution3x3(const Convolution3x3&, const Parallel&) {}
inline void convolution3x3_gradient(const Convolution3x3Gradient&, const Parallel&) {}
inline void pointwise(const Pointwise&, const Parallel&) {}
inline void pointwise_gradient(const PointwiseGradient&, const Parallel&) {}
#endif
}  // namespace amx

// A depthwise convolution with a 3x3 or 5x5 kernel: x [N, height, width, C] -> out [N, out_height, out_width, C], zeros
// around x. C is a multiple of 16.
struct Depthwise {
  DType dtype;  // float32 or bfloat16, of x and out; sums are float32
  int64_t images, height, width, out_height, out_width, channels, kernel, stride;
  int64_t top, left;  // pixels of padding
  float high;         // results are cut to 0 ... high; 0: they stay as they are
  bool flipped;       // the kernel is turned around
  const void* x;
  const float* weight;  // [kernel * kernel, C]
  const float* bias;    // [C] or none
  void* out;
};
HTC_CPU_KERNEL(depthwise, Depthwise)

// Its gradients. opened [N, out_height, out_width, C] receives grad where out was not cut; it is grad itself if high is
// 0. partial [N * bands, kernel * kernel + 1, C]: sums by band of rows; the first receives the whole, the bias's last.
struct DepthwiseBackward {
  DType dtype;
  int64_t images, height, width, out_height, out_width, channels, kernel, stride, top, left, bands;
  float high;
  const void *grad, *out, *x;
  const float* weight;
  void* opened;
  float* partial;
  void* to_x;  // or none
};
HTC_CPU_KERNEL(depthwise_backward, DepthwiseBackward)

}  // namespace htc
