// soft_nms: adapter. Everything is computed in float32.
#include "torch/common.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor> soft_nms(const Tensor& boxes, const Tensor& scores, const Tensor& classes, bool gaussian,
                                    double iou_threshold, double sigma, double min_score, int64_t max_output) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "soft_nms: boxes must be [K, 4]");
  STD_TORCH_CHECK(scores.numel() == boxes.size(0) && classes.numel() == boxes.size(0),
                  "soft_nms: scores and idxs must have one entry per box");
  const Tensor b = float_rows(boxes);
  const Tensor s = torch::stable::contiguous(torch::stable::to(scores, ScalarType::Float));
  const Tensor c = torch::stable::contiguous(torch::stable::to(classes, ScalarType::Long));
  Tensor indices = torch::stable::new_empty(c, {std::min(max_output, b.size(0))});
  Tensor decayed = torch::stable::new_empty(s, {indices.numel()});
  int64_t kept = 0;
  SoftNms op{};
  op.count = b.size(0);
  op.boxes = static_cast<const float*>(b.const_data_ptr());
  op.scores = static_cast<const float*>(s.const_data_ptr());
  op.classes = static_cast<const int64_t*>(c.const_data_ptr());
  op.gaussian = gaussian;
  op.iou_threshold = static_cast<float>(iou_threshold);
  op.sigma = static_cast<float>(sigma);
  op.min_score = static_cast<float>(min_score);
  op.max_output = indices.numel();
  op.indices = static_cast<int64_t*>(indices.mutable_data_ptr());
  op.decayed = static_cast<float*>(decayed.mutable_data_ptr());
  op.kept = &kept;
  if (boxes.is_cpu()) cpu::soft_nms(op, torch_threads());
#ifdef HTC_CUDA
  if (boxes.is_cuda() && op.max_output > 0) {
    torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
    Tensor count = torch::stable::new_empty(c, {1}, ScalarType::Int);
    Tensor workspace = torch::stable::new_empty(c, {cuda::soft_nms_workspace(op)}, ScalarType::Byte);
    cuda::soft_nms(op, static_cast<int32_t*>(count.mutable_data_ptr()), workspace.mutable_data_ptr(),
                   current_stream(boxes.get_device_index()));
    kept = read_count(count);
  }
#endif
  // Clones, so that the result does not keep (or alias) the longer buffers.
  return {torch::stable::clone(torch::stable::narrow(indices, 0, 0, kept)),
          torch::stable::clone(torch::stable::narrow(decayed, 0, 0, kept))};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("soft_nms", TORCH_BOX(&htc::soft_nms)); }
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) { m.impl("soft_nms", TORCH_BOX(&htc::soft_nms)); }
#endif
