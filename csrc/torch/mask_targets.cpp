// mask_targets: adapter.
#include <sstream>

#include "torch/common.h"

namespace htc {
namespace {

// raises where a RoI names an image or a layer that is not there; NaN names none
void check_places(const MaskTargets& op) {
  for (int64_t k = 0; k < op.count; k++) {
    const float image = op.rois[k * 5];
    const bool there = image != image || (image >= 0.0f && image < static_cast<float>(op.images));
    if (there && op.layer[k] >= 0 && op.layer[k] < op.layers) continue;
    // Thrown as it is: a check of torch's would put this file's name before the sentence.
    std::ostringstream what;
    what << "mask_targets: rois[" << k << "] names image " << image << " and layer " << op.layer[k]
         << ", but there are " << op.images << " images of " << op.layers << " layers, counted from 0.";
    throw std::runtime_error(what.str());
  }
}

Tensor mask_targets(const Tensor& maps_any, const Tensor& rois_any, const Tensor& layer_any, const Tensor& number_any,
                    int64_t size) {
  const ScalarType type = maps_any.scalar_type();
  STD_TORCH_CHECK(maps_any.dim() == 4 && (type == ScalarType::Short || type == ScalarType::Int),
                  "mask_targets: layers must be [N, L, H, W] of int16 or int32");
  STD_TORCH_CHECK(rois_any.dim() == 2 && rois_any.size(1) == 5 && layer_any.dim() == 1 && number_any.dim() == 1 &&
                      layer_any.size(0) == rois_any.size(0) && number_any.size(0) == rois_any.size(0),
                  "mask_targets: rois must be [K, 5], layer and number [K] of the same K");
  STD_TORCH_CHECK(size >= 1 && size < 1 << 15, "mask_targets: size must be 1 to 32767");
  const Tensor maps = torch::stable::contiguous(maps_any);
  const Tensor rois = torch::stable::contiguous(torch::stable::to(rois_any, ScalarType::Float));
  const Tensor layer = torch::stable::contiguous(torch::stable::to(layer_any, ScalarType::Long));
  const Tensor number = torch::stable::contiguous(torch::stable::to(number_any, ScalarType::Long));
  Tensor out = torch::stable::new_empty(rois, {rois.size(0), size, size}, ScalarType::Float);
  const MaskTargets op{type == ScalarType::Short,
                       maps.const_data_ptr(),
                       maps.size(0),
                       maps.size(1),
                       rois.size(0),
                       static_cast<int>(maps.size(2)),
                       static_cast<int>(maps.size(3)),
                       static_cast<int>(size),
                       static_cast<const float*>(rois.const_data_ptr()),
                       static_cast<const int64_t*>(layer.const_data_ptr()),
                       static_cast<const int64_t*>(number.const_data_ptr()),
                       static_cast<float*>(out.mutable_data_ptr())};
  if (maps.is_cpu()) {
    check_places(op);
    cpu::mask_targets(op, torch_threads());
  }
#ifdef HTC_CUDA
  if (maps.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(maps.get_device_index());
    cuda::mask_targets(op, current_stream(maps.get_device_index()));
  }
#endif
  return out;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("mask_targets", TORCH_BOX(&htc::mask_targets)); }
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) { m.impl("mask_targets", TORCH_BOX(&htc::mask_targets)); }
#endif
