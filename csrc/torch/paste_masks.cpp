// paste_masks: adapter.
#include "torch/common.h"

namespace htc {
namespace {

Tensor paste_masks(const Tensor& masks_any, const Tensor& boxes_any, int64_t height, int64_t width, double threshold) {
  STD_TORCH_CHECK(
      masks_any.dim() == 3 && boxes_any.dim() == 2 && boxes_any.size(1) == 4 && boxes_any.size(0) == masks_any.size(0),
      "paste_masks: masks must be [K, h, w] and boxes [K, 4] of the same K");
  STD_TORCH_CHECK(height >= 0 && width >= 0, "paste_masks: the image's size must not be negative");
  const Tensor masks = torch::stable::contiguous(torch::stable::to(masks_any, ScalarType::Float));
  const Tensor boxes = torch::stable::contiguous(torch::stable::to(boxes_any, ScalarType::Float));
  Tensor out = torch::stable::new_empty(masks, {masks.size(0), height, width}, ScalarType::Bool);
  if (out.numel() == 0) return out;
  const PasteMasks op{masks.size(0),
                      static_cast<int>(masks.size(1)),
                      static_cast<int>(masks.size(2)),
                      static_cast<const float*>(masks.const_data_ptr()),
                      static_cast<const float*>(boxes.const_data_ptr()),
                      height,
                      width,
                      static_cast<float>(threshold),
                      static_cast<uint8_t*>(out.mutable_data_ptr())};
  if (masks.is_cpu()) {
    advise_huge_pages(out, 1);
    cpu::paste_masks(op, torch_threads());
  }
#ifdef HTC_CUDA
  if (masks.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(masks.get_device_index());
    cuda::paste_masks(op, current_stream(masks.get_device_index()));
  }
#endif
  return out;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("paste_masks", TORCH_BOX(&htc::paste_masks)); }
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) { m.impl("paste_masks", TORCH_BOX(&htc::paste_masks)); }
#endif
