// 3x3 convolutions on the CPU by Winograd's F(4x4, 3x3): adapter. htc_fast/ops/winograd.py decides where.
#include "convolutions.h"
#include "torch/common.h"

namespace htc {
namespace {

Tensor winograd_weights(const Tensor& weight_any) {
  const Tensor weight = torch::stable::to(weight_any, ScalarType::Float);
  STD_TORCH_CHECK(weight.is_cpu() && weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3 &&
                      weight.size(0) % 32 == 0 && weight.size(1) % 16 == 0,
                  "winograd: weight must be [O, C, 3, 3] on the CPU, O a multiple of 32 and C of 16");
  Tensor packed = torch::stable::new_empty(weight, {winograd_floats(weight.size(0), weight.size(1))});
  advise_huge_pages(packed, 4);
  cpu::winograd_weights(
      {weight.size(0), weight.size(1), static_cast<const float*>(weight.const_data_ptr()), weight.stride(0),
       weight.stride(1), weight.stride(2), weight.stride(3), static_cast<float*>(packed.mutable_data_ptr())},
      torch_threads());
  return packed;
}

Tensor winograd(const Tensor& x_any, const Tensor& packed, const std::optional<Tensor>& bias, int64_t outputs,
                bool relu) {
  STD_TORCH_CHECK(x_any.is_cpu() && x_any.dim() == 4 && packed.is_cpu() && packed.scalar_type() == ScalarType::Float &&
                      packed.numel() == winograd_floats(outputs, x_any.size(1)) && outputs % 32 == 0 &&
                      x_any.size(1) % 16 == 0,
                  "winograd: x must be [N, C, H, W] on the CPU, with the C of the packed weights");
  STD_TORCH_CHECK(!bias || bias->numel() == outputs, "winograd: bias must be [O]");
  const Tensor x = torch::stable::contiguous(channels_at_the_end(x_any));
  std::optional<Tensor> offsets;
  if (bias) offsets = torch::stable::contiguous(torch::stable::to(*bias, ScalarType::Float));
  Winograd op{};
  op.dtype = dtype_of(x);
  STD_TORCH_CHECK(op.dtype == DType::f32 || op.dtype == DType::bf16, "winograd: x must be float32 or bfloat16");
  op.images = x.size(0);
  op.height = x.size(1);
  op.width = x.size(2);
  op.channels = x.size(3);
  op.outputs = outputs;
  Tensor out = torch::stable::new_empty(x, {op.images, op.height, op.width, outputs});
  advise_huge_pages(out, element_size(op.dtype));
  op.x = x.const_data_ptr();
  op.packed = static_cast<const float*>(packed.const_data_ptr());
  op.bias = offsets ? static_cast<const float*>(offsets->const_data_ptr()) : nullptr;
  op.relu = relu;
  op.out = out.mutable_data_ptr();
  if (out.numel() > 0) cpu::winograd(op, torch_threads());
  return channels_second(out);
}

Tensor winograd_gradient(const Tensor& x_any, const Tensor& grad_any) {
  STD_TORCH_CHECK(x_any.is_cpu() && grad_any.is_cpu() && x_any.dim() == 4 && grad_any.dim() == 4 &&
                      x_any.size(1) % 32 == 0 && grad_any.size(1) % 32 == 0 && x_any.size(0) == grad_any.size(0) &&
                      x_any.size(2) == grad_any.size(2) && x_any.size(3) == grad_any.size(3) &&
                      x_any.scalar_type() == grad_any.scalar_type() && x_any.numel() > 0 && grad_any.numel() > 0,
                  "winograd_gradient: x [N, C, H, W] and grad [N, O, H, W] must be of one type on the CPU, not empty, "
                  "C and O multiples of 32");
  const Tensor x = torch::stable::contiguous(channels_at_the_end(x_any));
  const Tensor grad = torch::stable::contiguous(channels_at_the_end(grad_any));
  WinogradGradient op{};
  op.dtype = dtype_of(x);
  STD_TORCH_CHECK(op.dtype == DType::f32 || op.dtype == DType::bf16,
                  "winograd_gradient: x and grad must be float32 or bfloat16");
  op.images = x.size(0);
  op.height = x.size(1);
  op.width = x.size(2);
  op.channels = x.size(3);
  op.outputs = grad.size(3);
  op.threads = torch::stable::get_num_threads();
  Tensor products = torch::stable::new_empty(x, {winograd_floats(op.outputs, op.channels)}, ScalarType::Float);
  advise_huge_pages(products, 4);
  Tensor out = torch::stable::new_empty(x, {op.outputs, 3, 3, op.channels}, ScalarType::Float);
  op.x = x.const_data_ptr();
  op.grad = grad.const_data_ptr();
  op.products = static_cast<float*>(products.mutable_data_ptr());
  op.out = static_cast<float*>(out.mutable_data_ptr());
  cpu::winograd_gradient(op, torch_threads());
  return channels_second(out);
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("winograd_weights", TORCH_BOX(&htc::winograd_weights));
  m.impl("winograd", TORCH_BOX(&htc::winograd));
  m.impl("winograd_gradient", TORCH_BOX(&htc::winograd_gradient));
}
