// encode_logits: adapter. Strings come back as encode_masks'.
#include "torch/encode_logits.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor> encode_logits_cpu(const Tensor& any, int64_t height, int64_t width, double threshold,
                                             std::vector<double> crop) {
  const Tensor logits = floats(any);
  EncodeLogits op = describe_logits(logits, height, width, threshold, crop);
  Strings strings(static_cast<size_t>(op.count));
  op.strings = strings.data();
  cpu::encode_logits(op, torch_threads());
  return pack_strings(strings, logits);
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("encode_logits", TORCH_BOX(&htc::encode_logits_cpu)); }
