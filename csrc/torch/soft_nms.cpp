// soft_nms: adapter. Everything is computed in float32.
#include "torch/common.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor> soft_nms_cpu(const Tensor& boxes, const Tensor& scores, const Tensor& classes, bool gaussian,
                                        double iou_threshold, double sigma, double min_score, int64_t max_output) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "soft_nms: boxes must be [K, 4]");
  STD_TORCH_CHECK(scores.numel() == boxes.size(0) && classes.numel() == boxes.size(0),
                  "soft_nms: scores and idxs must have one entry per box");
  const Tensor b = torch::stable::contiguous(torch::stable::to(boxes, ScalarType::Float));
  const Tensor s = torch::stable::contiguous(torch::stable::to(scores, ScalarType::Float));
  const Tensor c = torch::stable::contiguous(torch::stable::to(classes, ScalarType::Long));
  const int64_t most = std::min(max_output, boxes.size(0));
  Tensor indices = torch::stable::new_empty(c, {most});
  Tensor decayed = torch::stable::new_empty(s, {most});
  int64_t kept = 0;
  cpu::soft_nms(
      {b.size(0), static_cast<const float*>(b.const_data_ptr()), static_cast<const float*>(s.const_data_ptr()),
       static_cast<const int64_t*>(c.const_data_ptr()), gaussian, static_cast<float>(iou_threshold),
       static_cast<float>(sigma), static_cast<float>(min_score), most,
       static_cast<int64_t*>(indices.mutable_data_ptr()), static_cast<float*>(decayed.mutable_data_ptr()), &kept},
      torch_threads());
  // Clones, so that the result does not keep (or alias) the longer buffers.
  return {torch::stable::clone(torch::stable::narrow(indices, 0, 0, kept)),
          torch::stable::clone(torch::stable::narrow(decayed, 0, 0, kept))};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_FRAGMENT(htc_fast, m) {
  m.def(
      "soft_nms(Tensor boxes, Tensor scores, Tensor idxs, bool gaussian, float iou_threshold, float sigma, "
      "float min_score, int max_output) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("soft_nms", TORCH_BOX(&htc::soft_nms_cpu)); }
