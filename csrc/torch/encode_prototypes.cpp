// encode_prototypes: adapter. Strings come back as encode_masks'.
#include "torch/encode_logits.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor> encode_prototypes_cpu(const Tensor& any_coefficients, const Tensor& any_prototypes,
                                                 const Tensor& any_boxes, int64_t height, int64_t width,
                                                 double threshold, std::vector<double> crop, bool cut_after) {
  const Tensor coefficients = floats(any_coefficients), prototypes = floats(any_prototypes);
  const Tensor boxes = floats(any_boxes);
  EncodePrototypes op = describe_prototypes(coefficients, prototypes, boxes, height, width, threshold, crop, cut_after);
  Strings strings(static_cast<size_t>(op.count));
  op.strings = strings.data();
  cpu::encode_prototypes(op, torch_threads());
  return pack_strings(strings, coefficients);
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("encode_prototypes", TORCH_BOX(&htc::encode_prototypes_cpu)); }
