// soft_nms and soft_nms_padded: adapter. Everything is computed in float32.
#include "torch/common.h"

namespace htc {
namespace {

struct Found {
  Tensor indices, decayed, counts;
};

// boxes [.., 4], scores and classes [..], all of `images` times `count`.
Found run(const Tensor& boxes, const Tensor& scores, const Tensor& classes, int64_t images, int64_t count,
          bool gaussian, double iou_threshold, double sigma, double min_score, int64_t max_output) {
  STD_TORCH_CHECK(
      boxes.numel() == 4 * images * count && scores.numel() == images * count && classes.numel() == images * count,
      "soft_nms: boxes must be [..., B, 4], scores and idxs [..., B] of the same B");
  STD_TORCH_CHECK(count < (int64_t{1} << 31), "soft_nms: at most 2^31 - 1 boxes per image");
  const Tensor b = float_rows(boxes);
  const Tensor s = torch::stable::contiguous(torch::stable::to(scores, ScalarType::Float));
  const Tensor c = torch::stable::contiguous(torch::stable::to(classes, ScalarType::Long));
  Found found{torch::stable::new_empty(c, {images, max_output}), torch::stable::new_empty(s, {images, max_output}),
              torch::stable::new_empty(c, {images}, ScalarType::Int)};
  SoftNms op{};
  op.images = images;
  op.count = count;
  op.boxes = static_cast<const float*>(b.const_data_ptr());
  op.scores = static_cast<const float*>(s.const_data_ptr());
  op.classes = static_cast<const int64_t*>(c.const_data_ptr());
  op.gaussian = gaussian;
  op.iou_threshold = static_cast<float>(iou_threshold);
  op.sigma = static_cast<float>(sigma);
  op.min_score = static_cast<float>(min_score);
  op.max_output = max_output;
  op.indices = static_cast<int64_t*>(found.indices.mutable_data_ptr());
  op.decayed = static_cast<float*>(found.decayed.mutable_data_ptr());
  op.counts = static_cast<int32_t*>(found.counts.mutable_data_ptr());
  if (boxes.is_cpu()) cpu::soft_nms(op, torch_threads());
#ifdef HTC_CUDA
  if (boxes.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
    Tensor workspace = torch::stable::new_empty(c, {cuda::soft_nms_workspace(op)}, ScalarType::Byte);
    cuda::soft_nms(op, workspace.mutable_data_ptr(), current_stream(boxes.get_device_index()));
  }
#endif
  return found;
}

std::tuple<Tensor, Tensor, Tensor> soft_nms_padded(const Tensor& boxes, const Tensor& scores, const Tensor& classes,
                                                   bool gaussian, double iou_threshold, double sigma, double min_score,
                                                   int64_t max_output) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, "soft_nms_padded: boxes must be [N, B, 4]");
  Found found =
      run(boxes, scores, classes, boxes.size(0), boxes.size(1), gaussian, iou_threshold, sigma, min_score, max_output);
  return {found.indices, found.decayed, found.counts};
}

// As the padded one of a single image; then it waits once, for how many were kept.
std::tuple<Tensor, Tensor> soft_nms(const Tensor& boxes, const Tensor& scores, const Tensor& classes, bool gaussian,
                                    double iou_threshold, double sigma, double min_score, int64_t max_output) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "soft_nms: boxes must be [K, 4]");
  const int64_t most = std::min(max_output, boxes.size(0));
  Found found = run(boxes, scores, classes, 1, boxes.size(0), gaussian, iou_threshold, sigma, min_score, most);
  const auto* count = static_cast<const int32_t*>(found.counts.const_data_ptr());
  const int64_t kept = boxes.is_cpu() ? *count : most == 0 ? 0 : read_count(found.counts);
  // Clones, so that the result does not keep (or alias) the longer buffers.
  const auto front = [kept](const Tensor& padded) {
    Tensor first = torch::stable::select(padded, 0, 0);
    return torch::stable::clone(torch::stable::narrow(first, 0, 0, kept));
  };
  return {front(found.indices), front(found.decayed)};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("soft_nms", TORCH_BOX(&htc::soft_nms));
  m.impl("soft_nms_padded", TORCH_BOX(&htc::soft_nms_padded));
}
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) {
  m.impl("soft_nms", TORCH_BOX(&htc::soft_nms));
  m.impl("soft_nms_padded", TORCH_BOX(&htc::soft_nms_padded));
}
#endif
