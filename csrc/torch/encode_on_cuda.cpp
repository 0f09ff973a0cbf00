// encode_logits, encode_prototypes, encode, decode: adapters for CUDA. The host waits once, for the runs; twice where
// they are unusually many; not at all where it gives them.
#include "torch/encode_on_cuda.h"

#ifdef HTC_CUDA
namespace htc {
namespace {

template <class Operator>
std::tuple<Tensor, Tensor> strings_of(const Operator& op, const Tensor& packet) {
  Strings strings(static_cast<size_t>(op.count));
  cpu::compress_runs(describe_runs(op, packet, strings), torch_threads());
  return pack_strings(strings, packet);
}

std::tuple<Tensor, Tensor> encode_logits(const Tensor& any, int64_t height, int64_t width, double threshold,
                                         std::vector<double> crop) {
  const Tensor logits = floats(any);
  const EncodeLogits op = describe_logits(logits, height, width, threshold, crop);
  torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  return strings_of(op, packet_of_logits(op, logits, -1, current_stream(logits.get_device_index())));
}

std::tuple<Tensor, Tensor> encode_prototypes(const Tensor& coefficients_any, const Tensor& prototypes_any,
                                             const Tensor& boxes_any, int64_t height, int64_t width, double threshold,
                                             std::vector<double> crop, bool cut_after) {
  const Tensor coefficients = floats(coefficients_any), prototypes = floats(prototypes_any);
  const Tensor boxes = floats(boxes_any);
  const EncodePrototypes op =
      describe_prototypes(coefficients, prototypes, boxes, height, width, threshold, crop, cut_after);
  torch::stable::accelerator::DeviceGuard guard(prototypes.get_device_index());
  return strings_of(op, packet_of_prototypes(op, prototypes, -1, current_stream(prototypes.get_device_index())));
}

std::tuple<Tensor, Tensor> encode(const Tensor& any) {
  const Tensor masks = torch::stable::contiguous(any);
  const EncodeBitmaps op = describe_bitmaps(masks);
  torch::stable::accelerator::DeviceGuard guard(masks.get_device_index());
  return strings_of(op, packet_of_bitmaps(op, masks, -1, current_stream(masks.get_device_index())));
}

Tensor decode(const Tensor& runs, const Tensor& offsets, const Tensor& like, int64_t height, int64_t width) {
  torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  Tensor masks = torch::stable::new_empty(like, {offsets.numel() - 1, height, width}, ScalarType::Bool);
  decode_into(masks, runs, offsets, current_stream(like.get_device_index()));
  return masks;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) {
  m.impl("encode_logits", TORCH_BOX(&htc::encode_logits));
  m.impl("encode_prototypes", TORCH_BOX(&htc::encode_prototypes));
  m.impl("encode", TORCH_BOX(&htc::encode));
  m.impl("decode", TORCH_BOX(&htc::decode));
}
#endif
