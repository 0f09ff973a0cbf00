// propose: adapter. Maps are read where they are, in their type; float64 ones in float32.
#include "torch/propose.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor, Tensor> propose(std::vector<Tensor> objectness, std::vector<Tensor> deltas,
                                           const Tensor& image_sizes, std::vector<double> anchors,
                                           std::vector<double> strides, int64_t per_level, int64_t limit,
                                           double iou_threshold, double min_size, std::vector<double> delta_std) {
  ProposeInputs in{objectness, deltas, image_sizes,   anchors,  strides,
                   per_level,  limit,  iou_threshold, min_size, delta_std};
  Propose op = describe_propose(in);
  const Tensor& like = in.objectness[0];
  const Proposals out = room_for(op, like);
  if (like.is_cpu()) cpu::propose(op, torch_threads());
#ifdef HTC_CUDA
  if (like.is_cuda() && op.images > 0) {
    torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
    Tensor workspace = torch::stable::new_empty(like, {cuda::propose_workspace(op)}, ScalarType::Byte);
    cuda::propose(op, workspace.mutable_data_ptr(), current_stream(like.get_device_index()));
  }
#endif
  return {out.boxes, out.scores, out.valid};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("propose", TORCH_BOX(&htc::propose)); }
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) { m.impl("propose", TORCH_BOX(&htc::propose)); }
#endif
