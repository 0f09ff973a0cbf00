// encode_masks: adapter. All strings come back in one buffer of the host's, with where each begins.
#include "torch/encode_masks.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor> encode_masks_cpu(const Tensor& masks_any, const Tensor& boxes_any, int64_t height,
                                            int64_t width, double threshold) {
  const Tensor masks = floats(masks_any), boxes = floats(boxes_any);
  Strings strings;
  cpu::encode_masks(describe_masks(masks, boxes, height, width, threshold, strings), torch_threads());
  return pack_strings(strings, masks);
}

#ifdef HTC_CUDA
// The host waits once, for the runs; twice where they are unusually many.
std::tuple<Tensor, Tensor> encode_masks_cuda(const Tensor& masks_any, const Tensor& boxes_any, int64_t height,
                                             int64_t width, double threshold) {
  const Tensor masks = floats(masks_any), boxes = floats(boxes_any);
  STD_TORCH_CHECK(masks.size(1) <= 8192, "encode_masks: on CUDA masks have at most 8192 rows, got ", masks.size(1));
  Strings strings;
  const EncodeMasks op = describe_masks(masks, boxes, height, width, threshold, strings);
  check_image("encode_masks", op);
  torch::stable::accelerator::DeviceGuard guard(masks.get_device_index());
  const Stream stream = current_stream(masks.get_device_index());
  const Tensor packet = runs_on_host("encode_masks", op, masks, likely_runs(op), [&](uint64_t* memory, int64_t room) {
    cuda::find_runs(op, memory, room, stream);
  });
  cpu::compress_runs(describe_runs(op, packet, strings), torch_threads());
  return pack_strings(strings, masks);
}
#endif

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("encode_masks", TORCH_BOX(&htc::encode_masks_cpu)); }
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) { m.impl("encode_masks", TORCH_BOX(&htc::encode_masks_cuda)); }
#endif
