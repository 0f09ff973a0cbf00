// Depthwise convolutions on the CPU with their activation, and their gradients: adapter. htc_fast/ops/depthwise.py
// decides where.
#include "convolutions.h"
#include "torch/common.h"

namespace htc {
namespace {

Tensor rows_of(const Tensor& maps) { return torch::stable::contiguous(channels_at_the_end(maps)); }

// weight [C, 1, k, k] -> [k * k, C]
Tensor taps_of(const Tensor& weight) {
  STD_TORCH_CHECK(weight.is_cpu() && weight.dim() == 4 && weight.size(1) == 1 && weight.size(2) == weight.size(3) &&
                      (weight.size(2) == 3 || weight.size(2) == 5) && weight.size(0) % 16 == 0,
                  "depthwise: weight must be [C, 1, k, k] on the CPU, k 3 or 5 and C a multiple of 16");
  const Tensor rows = torch::stable::contiguous(torch::stable::to(weight, ScalarType::Float));
  return torch::stable::contiguous(
      torch::stable::transpose(torch::stable::reshape(rows, {weight.size(0), weight.size(2) * weight.size(3)}), 0, 1));
}

void check(const Tensor& rows, int64_t channels, int64_t stride, int64_t top, int64_t left) {
  STD_TORCH_CHECK(rows.is_cpu() && rows.size(3) == channels && stride > 0 && top >= 0 && left >= 0 &&
                      (dtype_of(rows) == DType::f32 || dtype_of(rows) == DType::bf16),
                  "depthwise: x must be [N, C, H, W] in float32 or bfloat16 on the CPU, with the weight's C");
}

Tensor depthwise(const Tensor& x_any, const Tensor& weight, const Tensor& bias_any, int64_t stride, int64_t top,
                 int64_t left, int64_t height, int64_t width, double high) {
  const Tensor x = rows_of(x_any), taps = taps_of(weight),
               bias = torch::stable::contiguous(torch::stable::to(bias_any, ScalarType::Float));
  check(x, weight.size(0), stride, top, left);
  STD_TORCH_CHECK(bias.numel() == weight.size(0), "depthwise: bias must be [C]");
  Tensor out = torch::stable::new_empty(x, {x.size(0), height, width, x.size(3)});
  advise_huge_pages(out, element_size(dtype_of(out)));
  cpu::depthwise(
      {dtype_of(x), x.size(0), x.size(1), x.size(2), height, width, x.size(3), weight.size(2), stride, top, left,
       static_cast<float>(high), false, x.const_data_ptr(), static_cast<const float*>(taps.const_data_ptr()),
       static_cast<const float*>(bias.const_data_ptr()), out.mutable_data_ptr()},
      torch_threads());
  return channels_second(out);
}

std::tuple<Tensor, Tensor, Tensor> depthwise_backward(const Tensor& grad_any, const Tensor& out_any,
                                                      const Tensor& x_any, const Tensor& weight, int64_t stride,
                                                      int64_t top, int64_t left, double high, bool x_needed) {
  const Tensor x = rows_of(x_any), grad = rows_of(torch::stable::to(grad_any, x.scalar_type())), out = rows_of(out_any),
               taps = taps_of(weight);
  check(x, weight.size(0), stride, top, left);
  check(grad, weight.size(0), stride, top, left);
  DepthwiseBackward op{};
  op.dtype = dtype_of(x);
  op.images = x.size(0);
  op.height = x.size(1);
  op.width = x.size(2);
  op.out_height = grad.size(1);
  op.out_width = grad.size(2);
  op.channels = x.size(3);
  op.kernel = weight.size(2);
  op.stride = stride;
  op.top = top;
  op.left = left;
  op.bands = std::max<int64_t>(std::min<int64_t>(op.out_height, 8), 1);
  op.high = static_cast<float>(high);
  Tensor opened =
      high > 0 ? torch::stable::new_empty(grad, {op.images, op.out_height, op.out_width, op.channels}) : grad;
  Tensor partial = torch::stable::new_empty(
      taps, {std::max<int64_t>(op.images * op.bands, 1), op.kernel * op.kernel + 1, op.channels});
  Tensor to_x = torch::stable::new_empty(x, {x_needed ? op.images : 0, op.height, op.width, op.channels});
  advise_huge_pages(to_x, element_size(op.dtype));
  if (op.images == 0) torch::stable::zero_(partial);
  op.grad = grad.const_data_ptr();
  op.out = out.const_data_ptr();
  op.x = x.const_data_ptr();
  op.weight = static_cast<const float*>(taps.const_data_ptr());
  op.opened = const_cast<void*>(opened.const_data_ptr());
  op.partial = static_cast<float*>(partial.mutable_data_ptr());
  op.to_x = x_needed ? to_x.mutable_data_ptr() : nullptr;
  if (op.images > 0) cpu::depthwise_backward(op, torch_threads());
  const Tensor sums = torch::stable::select(partial, 0, 0);
  const Tensor to_weight = torch::stable::contiguous(
      torch::stable::transpose(torch::stable::narrow(const_cast<Tensor&>(sums), 0, 0, op.kernel * op.kernel), 0, 1));
  return {channels_second(to_x), torch::stable::reshape(to_weight, {op.channels, 1, op.kernel, op.kernel}),
          torch::stable::clone(torch::stable::select(sums, 0, op.kernel * op.kernel))};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("depthwise", TORCH_BOX(&htc::depthwise));
  m.impl("depthwise_backward", TORCH_BOX(&htc::depthwise_backward));
}
