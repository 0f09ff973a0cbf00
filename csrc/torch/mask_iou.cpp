// mask_iou of whole masks: adapter.
#include "masks.h"
#include "torch/common.h"

namespace htc {
namespace {

// a [A, H, W] and b [B, H, W], bool -> shared pixels [A, B], areas [A] and [B], int64
std::tuple<Tensor, Tensor, Tensor> mask_iou(const Tensor& a_any, const Tensor& b_any) {
  STD_TORCH_CHECK(a_any.dim() == 3 && b_any.dim() == 3 && a_any.size(1) == b_any.size(1) &&
                      a_any.size(2) == b_any.size(2) && a_any.scalar_type() == ScalarType::Bool &&
                      b_any.scalar_type() == ScalarType::Bool,
                  "mask_iou: a must be [A, H, W] and b [B, H, W] of the same H and W, bool");
  const Tensor a = torch::stable::contiguous(a_any), b = torch::stable::contiguous(b_any);
  const auto numbers = [&](std::initializer_list<int64_t> shape) {
    return torch::stable::new_empty(a, shape, ScalarType::Long);
  };
  Tensor shared = numbers({a.size(0), b.size(0)}), area_a = numbers({a.size(0)}), area_b = numbers({b.size(0)});
  const MaskIou op{a.size(0),
                   b.size(0),
                   a.size(1) * a.size(2),
                   static_cast<const uint8_t*>(a.const_data_ptr()),
                   static_cast<const uint8_t*>(b.const_data_ptr()),
                   static_cast<int64_t*>(shared.mutable_data_ptr()),
                   static_cast<int64_t*>(area_a.mutable_data_ptr()),
                   static_cast<int64_t*>(area_b.mutable_data_ptr())};
  if (a.is_cpu()) cpu::mask_iou(op, torch_threads());
#ifdef HTC_CUDA
  if (a.is_cuda()) {
    STD_TORCH_CHECK(op.pixels < int64_t{1} << 32, "mask_iou: on CUDA an image has fewer than 2^32 pixels, got ",
                    op.pixels);
    torch::stable::accelerator::DeviceGuard guard(a.get_device_index());
    Tensor workspace = torch::stable::new_empty(a, {cuda::mask_iou_workspace(op)}, ScalarType::Byte);
    cuda::mask_iou(op, workspace.mutable_data_ptr(), current_stream(a.get_device_index()));
  }
#endif
  return {shared, area_a, area_b};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("mask_iou", TORCH_BOX(&htc::mask_iou)); }
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) { m.impl("mask_iou", TORCH_BOX(&htc::mask_iou)); }
#endif
