// quantize: adapter. For inference in 8 bits on the CPU; htc_fast/ops/quantize.py checks.
#include "torch/common.h"

namespace htc {
namespace {

Tensor quantize(const Tensor& x_any, double step, int64_t zero) {
  STD_TORCH_CHECK(x_any.is_cpu() && step > 0 && zero >= 0 && zero <= 255,
                  "quantize: expected floats on the CPU, a step above 0 and a zero of 0 to 255");
  const bool maps = x_any.dim() == 4;
  const Tensor x = torch::stable::contiguous(maps ? channels_at_the_end(x_any) : x_any);
  const DType dtype = dtype_of(x);
  STD_TORCH_CHECK(dtype != DType::f64, "quantize: float64 is not supported");
  Tensor out = torch::stable::new_empty(x, x.sizes(), ScalarType::Byte);
  advise_huge_pages(out, 1);
  uint8_t* to = static_cast<uint8_t*>(out.mutable_data_ptr());
  cpu::quantize({dtype, x.numel(), x.const_data_ptr(), static_cast<float>(step), zero, to}, torch_threads());
  return maps ? channels_second(out) : out;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("quantize", TORCH_BOX(&htc::quantize)); }
