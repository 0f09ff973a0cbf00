// pr_roi_pool and its gradients, to the maps and to the boxes: adapter.
#include "torch/roi_align.h"

namespace htc {
namespace {

PoolOptions precise(int64_t out_h, int64_t out_w, const std::vector<double>& scales, bool aligned, double finest_size) {
  return {out_h, out_w, scales, 0, aligned, finest_size, 1.0, 1, true};
}

Tensor pr_roi_pool(const std::vector<Tensor>& features, const Tensor& rois, int64_t out_h, int64_t out_w,
                   const std::vector<double>& scales, bool aligned, double finest_size) {
  return pool_forward(features, rois, precise(out_h, out_w, scales, aligned, finest_size), std::nullopt);
}

std::vector<Tensor> backward(const Tensor& grad, const Tensor& rois, const std::vector<int64_t>& sizes,
                             const std::vector<double>& scales, bool aligned, double finest_size) {
  STD_TORCH_CHECK(grad.dim() == 4, "pr_roi_pool_backward: grad must be [K, C, h, w]");
  return pool_backward(grad, rois, sizes, precise(grad.size(2), grad.size(3), scales, aligned, finest_size), false,
                       false);
}

// The gradient to the boxes, of the rois' shape and type; the image number has none.
Tensor boxes(const Tensor& grad, const std::vector<Tensor>& features, const Tensor& rois_any,
             const std::vector<double>& scales, bool aligned, double finest_size) {
  STD_TORCH_CHECK(grad.dim() == 4, "pr_roi_pool_boxes: grad must be [K, C, h, w]");
  const PoolOptions o = precise(grad.size(2), grad.size(3), scales, aligned, finest_size);
  std::vector<Tensor> maps = features;
  const PoolRois rois = pool_rois(rois_any, o, grad.scalar_type());
  PrRoiPool op{describe_pool(maps, false, rois, o), nullptr};
  STD_TORCH_CHECK(dtype_of(grad) == op.pool.dtype && grad.size(0) == op.pool.count && grad.size(1) == op.pool.channels,
                  "pr_roi_pool_boxes: grad must have the features' type and channels, and one row per RoI");
  const Tensor dense = torch::stable::contiguous(channels_at_the_end(grad));
  op.pool.out = const_cast<void*>(dense.const_data_ptr());
  const bool wide = op.pool.dtype == DType::f64;
  Tensor out =
      torch::stable::new_empty(rois.rounded, rois.rounded.sizes(), wide ? ScalarType::Double : ScalarType::Float);
  op.grad = out.mutable_data_ptr();
  if (grad.is_cpu()) cpu::pr_roi_pool_boxes(op, torch_threads());
#ifdef HTC_CUDA
  if (grad.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
    cuda::pr_roi_pool_boxes(op, current_stream(grad.get_device_index()));
  }
#endif
  return torch::stable::to(out, rois_any.scalar_type());
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("pr_roi_pool", TORCH_BOX(&htc::pr_roi_pool));
  m.impl("pr_roi_pool_backward", TORCH_BOX(&htc::backward));
  m.impl("pr_roi_pool_boxes", TORCH_BOX(&htc::boxes));
}
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) {
  m.impl("pr_roi_pool", TORCH_BOX(&htc::pr_roi_pool));
  m.impl("pr_roi_pool_backward", TORCH_BOX(&htc::backward));
  m.impl("pr_roi_pool_boxes", TORCH_BOX(&htc::boxes));
}
#endif
