// mask_iou's emulated kernels as a torch operator: torch.ops.htc_simt.mask_iou. No checks: tests behave.
#include "masks.h"
#include "torch/common.h"

namespace htc {
namespace {

// a [A, H, W] and b [B, H, W] bool; shared [A, B], area_a [A], area_b [B] int64
void mask_iou(Tensor a, Tensor b, Tensor shared, Tensor area_a, Tensor area_b) {
  const MaskIou op{a.size(0),
                   b.size(0),
                   a.size(1) * a.size(2),
                   static_cast<const uint8_t*>(a.const_data_ptr()),
                   static_cast<const uint8_t*>(b.const_data_ptr()),
                   static_cast<int64_t*>(shared.mutable_data_ptr()),
                   static_cast<int64_t*>(area_a.mutable_data_ptr()),
                   static_cast<int64_t*>(area_b.mutable_data_ptr())};
  std::vector<uint8_t> workspace(static_cast<size_t>(cuda::mask_iou_workspace(op)), 0xaa);
  cuda::mask_iou(op, workspace.data(), nullptr);
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_FRAGMENT(htc_simt, m) {
  m.def("mask_iou(Tensor a, Tensor b, Tensor(a!) shared, Tensor(b!) area_a, Tensor(c!) area_b) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(htc_simt, CPU, m) { m.impl("mask_iou", TORCH_BOX(&htc::mask_iou)); }
