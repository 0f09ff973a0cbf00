// The emulated kernels of propose as a torch operator: torch.ops.htc_simt.propose. No checks: tests behave.
#include "torch/propose.h"

namespace htc {
namespace {

// As htc_fast::propose; what nobody writes stays -7, and in the workspace 255.
std::tuple<Tensor, Tensor, Tensor> propose(std::vector<Tensor> objectness, std::vector<Tensor> deltas,
                                           const Tensor& image_sizes, std::vector<double> anchors,
                                           std::vector<double> strides, int64_t per_level, int64_t limit,
                                           double iou_threshold, double min_size, std::vector<double> delta_std) {
  ProposeInputs in{objectness, deltas, image_sizes,   anchors,  strides,
                   per_level,  limit,  iou_threshold, min_size, delta_std};
  Propose op = describe_propose(in);
  const Proposals out = room_for(op, in.objectness[0]);
  torch::stable::fill_(out.boxes, -7.0);
  torch::stable::fill_(out.scores, -7.0);
  Tensor workspace = torch::stable::new_empty(out.boxes, {cuda::propose_workspace(op)}, ScalarType::Byte);
  torch::stable::fill_(workspace, 255);
  cuda::propose(op, workspace.mutable_data_ptr(), nullptr);
  return {out.boxes, out.scores, out.valid};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_FRAGMENT(htc_simt, m) {
  m.def(
      "propose(Tensor[] objectness, Tensor[] deltas, Tensor image_sizes, float[] anchors, float[] strides, "
      "int per_level, int limit, float iou_threshold, float min_size, float[] delta_std) -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(htc_simt, CPU, m) { m.impl("propose", TORCH_BOX(&htc::propose)); }
