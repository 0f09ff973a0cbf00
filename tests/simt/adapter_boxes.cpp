// The emulated refine and detections as torch operators on CPU tensors. No checks: tests behave.
#include "torch/rows.h"

namespace htc {
namespace {

void refine(Tensor boxes, Tensor logits, Tensor deltas, std::vector<double> std, Tensor image_sizes,
            std::optional<Tensor> labels, Tensor out) {
  const MoveTensors tensors(boxes, deltas, image_sizes);
  Refine op{};
  op.classes = logits.size(2) - 1;
  op.moves = describe_moves(tensors, std, op.classes);
  op.logits = describe_rows(logits);
  op.labels = labels ? static_cast<const int64_t*>(labels->const_data_ptr()) : nullptr;
  op.out = static_cast<float*>(out.mutable_data_ptr());
  cuda::refine(op, nullptr);
}

void detections(std::vector<Tensor> logits, Tensor deltas, Tensor boxes, std::optional<Tensor> valid,
                Tensor image_sizes, std::vector<double> std, bool average_logits, double score_threshold,
                double iou_threshold, Tensor out_boxes, Tensor scores, Tensor labels, Tensor counts) {
  const MoveTensors tensors(boxes, deltas, image_sizes);
  Detect op{};
  op.classes = logits[0].size(2) - 1;
  op.moves = describe_moves(tensors, std, op.classes);
  op.stages = static_cast<int>(logits.size());
  for (size_t s = 0; s < logits.size(); s++) op.logits[s] = describe_rows(logits[s]);
  op.average_logits = average_logits;
  op.valid = valid ? static_cast<const uint8_t*>(valid->const_data_ptr()) : nullptr;
  op.score_threshold = static_cast<float>(score_threshold);
  op.iou_threshold = iou_threshold;
  op.max_output = labels.size(1);
  op.boxes = static_cast<float*>(out_boxes.mutable_data_ptr());
  op.scores = static_cast<float*>(scores.mutable_data_ptr());
  op.labels = static_cast<int64_t*>(labels.mutable_data_ptr());
  op.counts = static_cast<int32_t*>(counts.mutable_data_ptr());
  Tensor workspace = torch::stable::new_empty(scores, {cuda::detections_workspace(op)}, ScalarType::Byte);
  torch::stable::fill_(workspace, 255);
  cuda::detections(op, workspace.mutable_data_ptr(), nullptr);
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_FRAGMENT(htc_simt, m) {
  m.def(
      "refine(Tensor boxes, Tensor logits, Tensor deltas, float[] std, Tensor image_sizes, Tensor? labels, "
      "Tensor(a!) out) -> ()");
  m.def(
      "detections(Tensor[] logits, Tensor deltas, Tensor boxes, Tensor? valid, Tensor image_sizes, float[] std, "
      "bool average_logits, float score_threshold, float iou_threshold, Tensor(a!) out_boxes, Tensor(b!) scores, "
      "Tensor(c!) labels, Tensor(d!) counts) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(htc_simt, CPU, m) {
  m.impl("refine", TORCH_BOX(&htc::refine));
  m.impl("detections", TORCH_BOX(&htc::detections));
}
