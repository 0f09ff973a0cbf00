// refine: adapter.
#include "torch/rows.h"

namespace htc {
namespace {

Tensor refine(const Tensor& boxes, const Tensor& logits_any, const Tensor& deltas, std::vector<double> std,
              const Tensor& image_sizes, const std::optional<Tensor>& labels_any) {
  STD_TORCH_CHECK(logits_any.dim() == 3 && logits_any.size(0) == boxes.size(0) && logits_any.size(1) == boxes.size(1) &&
                      logits_any.size(2) > 1,
                  "refine: logits must be [N, R, classes + 1]");
  const MoveTensors tensors(boxes, deltas, image_sizes);
  const Tensor logits = readable(logits_any);
  std::optional<Tensor> labels;
  if (labels_any) labels = torch::stable::contiguous(torch::stable::to(*labels_any, ScalarType::Long));
  Refine op{};
  op.classes = logits.size(2) - 1;
  op.moves = describe_moves(tensors, std, op.classes);
  STD_TORCH_CHECK(!labels || labels->numel() == op.moves.images * op.moves.rows, "refine: labels must be [N, R]");
  op.logits = describe_rows(logits);
  op.labels = labels ? static_cast<const int64_t*>(labels->const_data_ptr()) : nullptr;
  Tensor out = torch::stable::new_empty(tensors.boxes, {op.moves.images, op.moves.rows, 4});
  op.out = static_cast<float*>(out.mutable_data_ptr());
  if (boxes.is_cpu()) cpu::refine(op, torch_threads());
#ifdef HTC_CUDA
  if (boxes.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(boxes.get_device_index());
    cuda::refine(op, current_stream(boxes.get_device_index()));
  }
#endif
  return out;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("refine", TORCH_BOX(&htc::refine)); }
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) { m.impl("refine", TORCH_BOX(&htc::refine)); }
#endif
