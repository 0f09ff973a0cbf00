// The encoders' emulated kernels as torch operators: torch.ops.htc_simt.*. No checks: tests behave. A negative room is
// what the adapter would make room for.
#define HTC_INSTRUCTION_SET emulator_encoders
#include "cpu/compress_runs.cpp"
#include "torch/encode_on_cuda.h"

namespace htc {
namespace {

template <class Operator>
std::tuple<Tensor, Tensor> strings_of(const Operator& op, const Tensor& packet) {
  Strings strings(static_cast<size_t>(op.count));
  cpu::emulator_encoders::compress_runs(describe_runs(op, packet, strings), torch_threads());
  return pack_strings(strings, packet);
}

std::tuple<Tensor, Tensor> encode_logits(Tensor logits, int64_t height, int64_t width, double threshold,
                                         std::vector<double> crop, int64_t room) {
  const EncodeLogits op = describe_logits(logits, height, width, threshold, crop);
  return strings_of(op, packet_of_logits(op, logits, room, nullptr));
}

std::tuple<Tensor, Tensor> encode_prototypes(Tensor coefficients, Tensor prototypes, Tensor boxes, int64_t height,
                                             int64_t width, double threshold, std::vector<double> crop, bool cut_after,
                                             int64_t room) {
  const EncodePrototypes op =
      describe_prototypes(coefficients, prototypes, boxes, height, width, threshold, crop, cut_after);
  return strings_of(op, packet_of_prototypes(op, prototypes, room, nullptr));
}

std::tuple<Tensor, Tensor> encode(Tensor masks, int64_t room) {
  const EncodeBitmaps op = describe_bitmaps(masks);
  return strings_of(op, packet_of_bitmaps(op, masks, room, nullptr));
}

void decode(Tensor runs, Tensor offsets, Tensor masks) { decode_into(masks, runs, offsets, nullptr); }

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_FRAGMENT(htc_simt, m) {
  m.def(
      "encode_logits(Tensor logits, int height, int width, float threshold, float[] crop, int room) -> (Tensor, "
      "Tensor)");
  m.def(
      "encode_prototypes(Tensor coefficients, Tensor prototypes, Tensor boxes, int height, int width, float threshold, "
      "float[] crop, bool cut_after, int room) -> (Tensor, Tensor)");
  m.def("encode(Tensor masks, int room) -> (Tensor, Tensor)");
  m.def("decode(Tensor runs, Tensor offsets, Tensor(a!) masks) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(htc_simt, CPU, m) {
  m.impl("encode_logits", TORCH_BOX(&htc::encode_logits));
  m.impl("encode_prototypes", TORCH_BOX(&htc::encode_prototypes));
  m.impl("encode", TORCH_BOX(&htc::encode));
  m.impl("decode", TORCH_BOX(&htc::decode));
}
