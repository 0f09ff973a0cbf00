// The emulated kernels as torch operators on CPU tensors: torch.ops.htc_simt.*. No checks: tests behave.
#include "torch/common.h"

namespace htc {
namespace {

RoiAlign arguments(const std::vector<Tensor>& maps, bool semantic, const Tensor& rois,
                   const std::vector<double>& scales, const std::vector<int64_t>& options, bool aligned) {
  RoiAlign a{};
  a.dtype = dtype_of(maps[0]);
  a.levels = static_cast<int>(maps.size()) - semantic;
  a.has_semantic = semantic;
  for (size_t m = 0; m < maps.size(); m++) {
    const Tensor& t = maps[m];
    a.maps[m] = {t.mutable_data_ptr(), t.size(2),   t.size(3),   static_cast<float>(scales[m]),
                 t.stride(0),          t.stride(1), t.stride(2), t.stride(3)};
  }
  a.images = maps[0].size(0);
  a.channels = maps[0].size(1);
  a.rois = static_cast<const float*>(rois.const_data_ptr());
  a.count = rois.dim() == 3 ? rois.size(0) * rois.size(1) : rois.size(0);
  a.rois_per_image = rois.dim() == 3 ? rois.size(1) : 0;
  a.out_h = static_cast<int>(options[0]);
  a.out_w = static_cast<int>(options[1]);
  a.sampling_ratio = static_cast<int>(options[2]);
  a.semantic_grid = static_cast<int>(options[3]);
  a.aligned = aligned;
  a.finest_size = 56.0f;
  return a;
}

// options: out_h, out_w, sampling_ratio, semantic_grid
void roi_align(std::vector<Tensor> maps, bool semantic, Tensor rois, std::vector<double> scales,
               std::vector<int64_t> options, bool aligned, Tensor out) {
  RoiAlign a = arguments(maps, semantic, rois, scales, options, aligned);
  a.out = out.mutable_data_ptr();
  cuda::roi_align(a, nullptr);
}

// grad is channels-last; the maps receive the gradient (fp32 zeros where it is scattered).
void roi_align_backward(Tensor grad, std::vector<Tensor> maps, bool semantic, Tensor rois, std::vector<double> scales,
                        std::vector<int64_t> options, bool aligned, bool deterministic) {
  RoiAlign a = arguments(maps, semantic, rois, scales, options, aligned);
  a.dtype = dtype_of(grad);
  a.out = grad.mutable_data_ptr();
  if (!deterministic) return cuda::roi_align_scatter(a, nullptr);
  Tensor workspace = torch::stable::new_empty(grad, {cuda::roi_align_workspace(a)}, ScalarType::Byte);
  cuda::roi_align_backward(a, workspace.mutable_data_ptr(), nullptr);
}

// options: out_h, out_w; pooled: the output, or in the gradients' cases its gradient
RoiAlign precise(const std::vector<Tensor>& maps, const Tensor& rois, const std::vector<double>& scales,
                 const std::vector<int64_t>& options, bool aligned, const Tensor& pooled) {
  RoiAlign a = arguments(maps, false, rois, scales, {options[0], options[1], 0, 1}, aligned);
  a.precise = true;
  a.dtype = dtype_of(pooled);
  a.out = pooled.mutable_data_ptr();
  return a;
}

void pr_roi_pool(std::vector<Tensor> maps, Tensor rois, std::vector<double> scales, std::vector<int64_t> options,
                 bool aligned, Tensor out) {
  cuda::roi_align(precise(maps, rois, scales, options, aligned, out), nullptr);
}

void pr_roi_pool_backward(Tensor grad, std::vector<Tensor> maps, Tensor rois, std::vector<double> scales,
                          std::vector<int64_t> options, bool aligned) {
  const RoiAlign a = precise(maps, rois, scales, options, aligned, grad);
  Tensor workspace = torch::stable::new_empty(grad, {cuda::roi_align_workspace(a)}, ScalarType::Byte);
  torch::stable::fill_(workspace, 255);
  cuda::roi_align_backward(a, workspace.mutable_data_ptr(), nullptr);
}

void pr_roi_pool_boxes(Tensor grad, std::vector<Tensor> maps, Tensor rois, std::vector<double> scales,
                       std::vector<int64_t> options, bool aligned, Tensor out) {
  cuda::pr_roi_pool_boxes({precise(maps, rois, scales, options, aligned, grad), out.mutable_data_ptr()}, nullptr);
}

// As htc_fast::batched_nms_padded, with outputs given.
void batched_nms(Tensor boxes, Tensor scores, std::optional<Tensor> classes, double iou_threshold,
                 double score_threshold, Tensor indices, Tensor counts) {
  BatchedNms op{};
  op.images = boxes.size(0);
  op.count = boxes.size(1);
  op.boxes = static_cast<const float*>(boxes.const_data_ptr());
  op.scores = static_cast<const float*>(scores.const_data_ptr());
  op.classes = classes ? static_cast<const int64_t*>(classes->const_data_ptr()) : nullptr;
  op.iou_threshold = iou_threshold;
  op.has_score_threshold = true;
  op.score_threshold = static_cast<float>(score_threshold);
  op.max_output = indices.size(1);
  op.indices = static_cast<int64_t*>(indices.mutable_data_ptr());
  op.counts = static_cast<int32_t*>(counts.mutable_data_ptr());
  Tensor workspace = torch::stable::new_empty(boxes, {cuda::batched_nms_workspace(op)}, ScalarType::Byte);
  torch::stable::fill_(workspace, 255);
  cuda::batched_nms(op, workspace.mutable_data_ptr(), nullptr);
}

// As htc_fast::soft_nms_padded, with outputs given.
void soft_nms(Tensor boxes, Tensor scores, Tensor classes, bool gaussian, double iou_threshold, double sigma,
              double min_score, Tensor indices, Tensor decayed, Tensor counts) {
  SoftNms op{};
  op.images = boxes.size(0);
  op.count = boxes.size(1);
  op.boxes = static_cast<const float*>(boxes.const_data_ptr());
  op.scores = static_cast<const float*>(scores.const_data_ptr());
  op.classes = static_cast<const int64_t*>(classes.const_data_ptr());
  op.gaussian = gaussian;
  op.iou_threshold = static_cast<float>(iou_threshold);
  op.sigma = static_cast<float>(sigma);
  op.min_score = static_cast<float>(min_score);
  op.max_output = indices.size(1);
  op.indices = static_cast<int64_t*>(indices.mutable_data_ptr());
  op.decayed = static_cast<float*>(decayed.mutable_data_ptr());
  op.counts = static_cast<int32_t*>(counts.mutable_data_ptr());
  Tensor workspace = torch::stable::new_empty(boxes, {cuda::soft_nms_workspace(op)}, ScalarType::Byte);
  torch::stable::fill_(workspace, 255);
  cuda::soft_nms(op, workspace.mutable_data_ptr(), nullptr);
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY(htc_simt, m) {
  m.def(
      "roi_align(Tensor[] maps, bool semantic, Tensor rois, float[] scales, int[] options, bool aligned, Tensor(a!) "
      "out) -> ()");
  m.def(
      "roi_align_backward(Tensor grad, Tensor(a!)[] maps, bool semantic, Tensor rois, float[] scales, int[] options, "
      "bool aligned, bool deterministic) -> ()");
  m.def("pr_roi_pool(Tensor[] maps, Tensor rois, float[] scales, int[] options, bool aligned, Tensor(a!) out) -> ()");
  m.def(
      "pr_roi_pool_backward(Tensor grad, Tensor(a!)[] maps, Tensor rois, float[] scales, int[] options, bool aligned) "
      "-> ()");
  m.def(
      "pr_roi_pool_boxes(Tensor grad, Tensor[] maps, Tensor rois, float[] scales, int[] options, bool aligned, "
      "Tensor(a!) out) -> ()");
  m.def(
      "batched_nms(Tensor boxes, Tensor scores, Tensor? classes, float iou_threshold, float score_threshold, "
      "Tensor(a!) indices, Tensor(b!) counts) -> ()");
  m.def(
      "soft_nms(Tensor boxes, Tensor scores, Tensor classes, bool gaussian, float iou_threshold, float sigma, "
      "float min_score, Tensor(a!) indices, Tensor(b!) decayed, Tensor(c!) counts) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(htc_simt, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&htc::roi_align));
  m.impl("roi_align_backward", TORCH_BOX(&htc::roi_align_backward));
  m.impl("pr_roi_pool", TORCH_BOX(&htc::pr_roi_pool));
  m.impl("pr_roi_pool_backward", TORCH_BOX(&htc::pr_roi_pool_backward));
  m.impl("pr_roi_pool_boxes", TORCH_BOX(&htc::pr_roi_pool_boxes));
  m.impl("batched_nms", TORCH_BOX(&htc::batched_nms));
  m.impl("soft_nms", TORCH_BOX(&htc::soft_nms));
}
