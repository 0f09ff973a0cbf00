// detections: adapter.
#include "torch/rows.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> detections(std::vector<Tensor> logits, const Tensor& deltas,
                                                      const Tensor& boxes_any, const std::optional<Tensor>& valid_any,
                                                      const Tensor& image_sizes, std::vector<double> std,
                                                      bool average_logits, double score_threshold, double iou_threshold,
                                                      int64_t limit) {
  const int64_t images = boxes_any.size(0), rows = boxes_any.size(1);
  STD_TORCH_CHECK(!logits.empty() && logits.size() <= kMaxStages, "detections: 1 to 8 stages");
  const MoveTensors tensors(boxes_any, deltas, image_sizes);
  std::optional<Tensor> valid;
  if (valid_any) valid = torch::stable::contiguous(torch::stable::to(*valid_any, ScalarType::Bool));
  STD_TORCH_CHECK(!valid || valid->numel() == images * rows, "detections: valid must be [N, R]");
  Detect op{};
  op.classes = logits[0].size(2) - 1;
  op.stages = static_cast<int>(logits.size());
  for (size_t s = 0; s < logits.size(); ++s) {
    logits[s] = readable(logits[s]);
    STD_TORCH_CHECK(logits[s].dim() == 3 && logits[s].size(0) == images && logits[s].size(1) == rows &&
                        logits[s].size(2) == op.classes + 1 && op.classes > 0,
                    "detections: logits must be [N, R, classes + 1], of the same size in every stage");
    op.logits[s] = describe_rows(logits[s]);
  }
  STD_TORCH_CHECK(rows * op.classes < (int64_t{1} << 31) - 4096,
                  "detections: at most 2^31 - 4097 rows times classes per image");
  op.moves = describe_moves(tensors, std, op.classes);
  op.average_logits = average_logits;
  op.valid = valid ? static_cast<const uint8_t*>(valid->const_data_ptr()) : nullptr;
  op.score_threshold = static_cast<float>(score_threshold);
  op.iou_threshold = iou_threshold;
  op.max_output = limit;
  Tensor boxes = torch::stable::new_empty(tensors.boxes, {images, limit, 4});
  Tensor scores = torch::stable::new_empty(tensors.boxes, {images, limit});
  Tensor labels = torch::stable::new_empty(tensors.boxes, {images, limit}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(tensors.boxes, {images}, ScalarType::Int);
  op.boxes = static_cast<float*>(boxes.mutable_data_ptr());
  op.scores = static_cast<float*>(scores.mutable_data_ptr());
  op.labels = static_cast<int64_t*>(labels.mutable_data_ptr());
  op.counts = static_cast<int32_t*>(counts.mutable_data_ptr());
  if (boxes.is_cpu()) cpu::detections(op, torch_threads());
#ifdef HTC_CUDA
  if (boxes.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
    Tensor workspace = torch::stable::new_empty(boxes, {cuda::detections_workspace(op)}, ScalarType::Byte);
    cuda::detections(op, workspace.mutable_data_ptr(), current_stream(boxes.get_device_index()));
  }
#endif
  return {boxes, scores, labels, counts};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("detections", TORCH_BOX(&htc::detections)); }
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) { m.impl("detections", TORCH_BOX(&htc::detections)); }
#endif
