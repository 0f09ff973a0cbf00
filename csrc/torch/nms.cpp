// batched_nms and batched_nms_padded: adapter. Overlaps are computed in float32, whatever the boxes' type.
#include "torch/common.h"

namespace htc {
namespace {

struct Inputs {
  Tensor boxes, scores;
  std::optional<Tensor> classes;
};

Inputs float_inputs(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& classes) {
  Inputs in{float_rows(boxes), torch::stable::contiguous(torch::stable::to(scores, ScalarType::Float)), std::nullopt};
  if (classes) in.classes = torch::stable::contiguous(torch::stable::to(*classes, ScalarType::Long));
  return in;
}

BatchedNms describe(const Inputs& in, int64_t images, int64_t count, double iou_threshold) {
  STD_TORCH_CHECK(in.boxes.numel() == 4 * images * count && in.scores.numel() == images * count &&
                      (!in.classes || in.classes->numel() == images * count),
                  "nms: boxes must be [..., B, 4], scores and idxs [..., B] of the same B");
  STD_TORCH_CHECK(count < (int64_t{1} << 32), "nms: at most 2^32 - 1 boxes per image");
  BatchedNms op{};
  op.images = images;
  op.count = count;
  op.boxes = static_cast<const float*>(in.boxes.const_data_ptr());
  op.scores = static_cast<const float*>(in.scores.const_data_ptr());
  op.classes = in.classes ? static_cast<const int64_t*>(in.classes->const_data_ptr()) : nullptr;
  op.iou_threshold = iou_threshold;
  return op;
}

Tensor batched_nms_cpu(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& classes,
                       double iou_threshold) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "nms: boxes must be [K, 4]");
  const Inputs in = float_inputs(boxes, scores, classes);
  BatchedNms op = describe(in, 1, boxes.size(0), iou_threshold);
  std::vector<int64_t> kept(static_cast<size_t>(op.count));
  int32_t count = 0;
  op.max_output = op.count;
  op.indices = kept.data();
  op.counts = &count;
  cpu::batched_nms(op, torch_threads());
  Tensor out = torch::stable::new_empty(boxes, {count}, ScalarType::Long);
  std::copy(kept.begin(), kept.begin() + count, static_cast<int64_t*>(out.mutable_data_ptr()));
  return out;
}

#ifdef HTC_CUDA
void run_cuda(const BatchedNms& op, const Tensor& boxes) {
  torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
  Tensor workspace = torch::stable::new_empty(boxes, {cuda::batched_nms_workspace(op)}, ScalarType::Byte);
  cuda::batched_nms(op, workspace.mutable_data_ptr(), current_stream(boxes.get_device_index()));
}

// As the padded one with room for all; then it waits once, for how many were kept.
Tensor batched_nms_cuda(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& classes,
                        double iou_threshold) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "nms: boxes must be [K, 4]");
  const Inputs in = float_inputs(boxes, scores, classes);
  BatchedNms op = describe(in, 1, boxes.size(0), iou_threshold);
  if (op.count == 0) return torch::stable::new_empty(boxes, {0}, ScalarType::Long);
  Tensor indices = torch::stable::new_empty(boxes, {op.count}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(boxes, {1}, ScalarType::Int);
  op.max_output = op.count;
  op.indices = static_cast<int64_t*>(indices.mutable_data_ptr());
  op.counts = static_cast<int32_t*>(counts.mutable_data_ptr());
  run_cuda(op, boxes);
  return torch::stable::clone(torch::stable::narrow(indices, 0, 0, read_count(counts)));
}
#endif

std::tuple<Tensor, Tensor> batched_nms_padded(const Tensor& boxes, const Tensor& scores, const Tensor& classes,
                                              double iou_threshold, int64_t max_output, double score_threshold) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, "batched_nms_padded: boxes must be [N, B, 4]");
  const Inputs in = float_inputs(boxes, scores, classes);
  BatchedNms op = describe(in, boxes.size(0), boxes.size(1), iou_threshold);
  Tensor indices = torch::stable::new_empty(boxes, {op.images, max_output}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(boxes, {op.images}, ScalarType::Int);
  op.has_score_threshold = true;
  op.score_threshold = static_cast<float>(score_threshold);
  op.max_output = max_output;
  op.indices = static_cast<int64_t*>(indices.mutable_data_ptr());
  op.counts = static_cast<int32_t*>(counts.mutable_data_ptr());
  if (boxes.is_cpu() && op.images > 0) cpu::batched_nms(op, torch_threads());
#ifdef HTC_CUDA
  if (boxes.is_cuda()) run_cuda(op, boxes);
#endif
  return {indices, counts};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("batched_nms", TORCH_BOX(&htc::batched_nms_cpu));
  m.impl("batched_nms_padded", TORCH_BOX(&htc::batched_nms_padded));
}
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) {
  m.impl("batched_nms", TORCH_BOX(&htc::batched_nms_cuda));
  m.impl("batched_nms_padded", TORCH_BOX(&htc::batched_nms_padded));
}
#endif
