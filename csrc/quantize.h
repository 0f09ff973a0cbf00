// Features in 8 bits, as oneDNN's quantised layers read them.
#pragma once
#include "ops.h"

namespace htc {

// out[i] = x[i] / step + zero, rounded to the nearest (even) and clamped to 0..255; NaN becomes 0.
struct Quantize {
  DType dtype;  // of x, not float64
  int64_t count;
  const void* x;
  float step;
  int64_t zero;
  uint8_t* out;
};
HTC_CPU_KERNEL(quantize, Quantize)

}  // namespace htc
