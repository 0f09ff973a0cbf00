// What runs in bfloat16 on a processor's matrix unit: adapter. htc_fast/ops/amx.py decides where.
#include "convolutions.h"
#include "torch/common.h"
#if defined(HTC_AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace htc {
namespace {

// Whether this processor has a matrix unit for bfloat16, and this process may use it.
bool ready() {
#if defined(HTC_AMX) && defined(__linux__)
  static const bool is = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool unit = (d >> 22 & 1) && (d >> 24 & 1);                                      // AMX-BF16 and AMX-TILE
    if (!unit || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return false;  // AVX512_BF16
    // The system keeps room for a thread's tiles once a process has asked.
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
    return cpu::instruction_set() == 2 && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  }();
  return is;
#else
  return false;
#endif
}

Tensor amx_weights(const Tensor& weight, bool turned) {
  STD_TORCH_CHECK(weight.is_cpu() && weight.dim() == 4 && (weight.size(2) == 1 || weight.size(2) == 3) &&
                      weight.size(3) == weight.size(2) && weight.size(0) % 32 == 0 && weight.size(1) % 32 == 0 &&
                      weight.numel() > 0 && ready(),
                  "amx_weights: weight must be [O, C, 1, 1] or [O, C, 3, 3] on a CPU with AMX, O and C multiples of "
                  "32, not 0");
  ConvolutionWeights op{};
  op.dtype = dtype_of(weight);
  STD_TORCH_CHECK(op.dtype == DType::f32 || op.dtype == DType::bf16, "amx_weights: weight must be float32 or bfloat16");
  const int64_t o = turned, c = !turned;  // which dimension they are
  op.outputs = weight.size(o);
  op.channels = weight.size(c);
  op.kernel = weight.size(2);
  op.stride_o = weight.stride(o);
  op.stride_c = weight.stride(c);
  op.stride_h = turned ? -weight.stride(2) : weight.stride(2);
  op.stride_w = turned ? -weight.stride(3) : weight.stride(3);
  // Turned, the last tap comes first.
  const int64_t first = turned ? (op.kernel - 1) * (weight.stride(2) + weight.stride(3)) : 0;
  op.weight = static_cast<const char*>(weight.const_data_ptr()) + first * element_size(op.dtype);
  Tensor packed = torch::stable::new_empty(weight, {weight.numel()}, ScalarType::BFloat16);
  op.packed = packed.mutable_data_ptr();
  amx::convolution_weights(op, torch_threads());
  return packed;
}

Tensor amx_convolution(const Tensor& x_any, const Tensor& packed, const std::optional<Tensor>& bias,
                       const std::optional<Tensor>& other_any, int64_t outputs, bool relu) {
  STD_TORCH_CHECK(
      x_any.is_cpu() && x_any.dim() == 4 && x_any.scalar_type() == ScalarType::BFloat16 && packed.is_cpu() &&
          packed.scalar_type() == ScalarType::BFloat16 && packed.numel() > 0 &&
          (packed.numel() == outputs * x_any.size(1) || packed.numel() == outputs * x_any.size(1) * 9) &&
          outputs % 32 == 0 && x_any.size(1) % 32 == 0 && ready(),
      "amx_convolution: x must be bfloat16 [N, C, H, W] on a CPU with AMX, with the C of the packed weights");
  STD_TORCH_CHECK(!bias || (bias->is_cpu() && bias->numel() == outputs),
                  "amx_convolution: bias must be [O], on the CPU");
  const Tensor x = torch::stable::contiguous(channels_at_the_end(x_any));
  const Tensor weights = torch::stable::contiguous(packed);
  const bool pointwise = packed.numel() == outputs * x.size(3);
  std::optional<Tensor> offsets, other;
  if (bias) offsets = torch::stable::contiguous(torch::stable::to(*bias, ScalarType::Float));
  if (other_any) {
    STD_TORCH_CHECK(pointwise && other_any->is_cpu() && other_any->scalar_type() == ScalarType::BFloat16 &&
                        other_any->dim() == 4 && other_any->size(0) == x.size(0) && other_any->size(1) == outputs &&
                        other_any->size(2) == x.size(1) && other_any->size(3) == x.size(2),
                    "amx_convolution: other must be bfloat16 [N, O, H, W] on the CPU, behind a 1x1 convolution");
    other = torch::stable::contiguous(channels_at_the_end(*other_any));
  }
  Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), outputs});
  advise_huge_pages(out, 2);
  const float* added = offsets ? static_cast<const float*>(offsets->const_data_ptr()) : nullptr;
  if (out.numel() == 0) return channels_second(out);
  if (pointwise) {
    amx::pointwise({x.size(0) * x.size(1) * x.size(2), x.size(3), outputs, x.const_data_ptr(), weights.const_data_ptr(),
                    added, other ? other->const_data_ptr() : nullptr, relu, out.mutable_data_ptr()},
                   torch_threads());
  } else {
    amx::convolution3x3({x.size(0), x.size(1), x.size(2), x.size(3), outputs, x.const_data_ptr(),
                         weights.const_data_ptr(), added, relu, out.mutable_data_ptr()},
                        torch_threads());
  }
  return channels_second(out);
}

std::tuple<Tensor, Tensor> amx_gradient(const Tensor& x_any, const Tensor& grad_any, int64_t kernel, bool biased) {
  STD_TORCH_CHECK(x_any.is_cpu() && grad_any.is_cpu() && x_any.dim() == 4 && grad_any.dim() == 4 &&
                      x_any.size(1) % 32 == 0 && grad_any.size(1) % 32 == 0 && x_any.size(0) == grad_any.size(0) &&
                      x_any.size(2) == grad_any.size(2) && x_any.size(3) == grad_any.size(3) &&
                      x_any.scalar_type() == ScalarType::BFloat16 && grad_any.scalar_type() == ScalarType::BFloat16 &&
                      x_any.numel() > 0 && grad_any.numel() > 0 && (kernel == 1 || kernel == 3) && ready(),
                  "amx_gradient: x [N, C, H, W] and grad [N, O, H, W] must be bfloat16 on a CPU with AMX, not empty, "
                  "C and O multiples of 32, kernel 1 or 3");
  const Tensor x = torch::stable::contiguous(channels_at_the_end(x_any));
  const Tensor grad = torch::stable::contiguous(channels_at_the_end(grad_any));
  Tensor out = torch::stable::new_empty(x, {grad.size(3), kernel, kernel, x.size(3)}, ScalarType::Float);
  Tensor bias = torch::stable::new_empty(x, {biased ? grad.size(3) : 0}, ScalarType::Float);
  Tensor sums = torch::stable::new_empty(x, {out.numel() + 16 * bias.numel()}, ScalarType::Float);
  for (const Tensor& one : {out, sums}) advise_huge_pages(one, 4);
  float *summed = static_cast<float*>(sums.mutable_data_ptr()), *to = static_cast<float*>(out.mutable_data_ptr()),
        *bias_summed = summed + out.numel(), *bias_to = biased ? static_cast<float*>(bias.mutable_data_ptr()) : nullptr;
  if (kernel == 1) {
    amx::pointwise_gradient({x.size(0) * x.size(1) * x.size(2), x.size(3), grad.size(3), x.const_data_ptr(),
                             grad.const_data_ptr(), summed, to, bias_summed, bias_to},
                            torch_threads());
  } else {
    amx::convolution3x3_gradient({x.size(0), x.size(1), x.size(2), x.size(3), grad.size(3), x.const_data_ptr(),
                                  grad.const_data_ptr(), summed, to, bias_summed, bias_to},
                                 torch_threads());
  }
  return {channels_second(out), bias};
}

Tensor amx_mask_predict(const Tensor& x_any, const Tensor& packed, const Tensor& up_bias, const Tensor& own_any,
                        const Tensor& added) {
  STD_TORCH_CHECK(x_any.is_cpu() && x_any.dim() == 4 && x_any.scalar_type() == ScalarType::BFloat16 &&
                      packed.is_cpu() && packed.scalar_type() == ScalarType::BFloat16 && own_any.dim() == 2 &&
                      x_any.numel() > 0 && x_any.size(1) % 32 == 0 && own_any.size(1) % 32 == 0 &&
                      own_any.size(0) == x_any.size(0) && packed.numel() == 4 * x_any.size(1) * own_any.size(1) &&
                      own_any.numel() > 0 && ready(),
                  "amx_mask_predict: x must be bfloat16 [K, C, H, W] on a CPU with AMX, not empty, with the C of the "
                  "packed weights");
  STD_TORCH_CHECK(own_any.is_cpu() && up_bias.is_cpu() && up_bias.numel() == own_any.size(1) && added.is_cpu() &&
                      added.numel() == x_any.size(0),
                  "amx_mask_predict: up_bias must be [O], own [K, O] and added [K], on the CPU");
  const Tensor x = torch::stable::contiguous(channels_at_the_end(x_any)), weights = torch::stable::contiguous(packed);
  const Tensor offsets = float_rows(up_bias), own = float_rows(own_any), last = float_rows(added);
  Tensor out = torch::stable::new_empty(x, {x.size(0), 2 * x.size(1), 2 * x.size(2)});
  amx::mask_predict(
      {x.size(0), x.size(1), x.size(2), x.size(3), own.size(1), x.const_data_ptr(), weights.const_data_ptr(),
       static_cast<const float*>(offsets.const_data_ptr()), static_cast<const float*>(own.const_data_ptr()),
       static_cast<const float*>(last.const_data_ptr()), out.mutable_data_ptr()},
      torch_threads());
  return out;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("amx_weights", TORCH_BOX(&htc::amx_weights));
  m.impl("amx_convolution", TORCH_BOX(&htc::amx_convolution));
  m.impl("amx_gradient", TORCH_BOX(&htc::amx_gradient));
  m.impl("amx_mask_predict", TORCH_BOX(&htc::amx_mask_predict));
}
