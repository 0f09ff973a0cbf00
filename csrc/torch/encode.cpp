// encode: adapter. Strings come back as encode_masks'.
#include "torch/run_strings.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor> encode_cpu(const Tensor& any) {
  const Tensor masks = torch::stable::contiguous(any);
  STD_TORCH_CHECK(masks.dim() == 3 && masks.element_size() == 1, "encode: masks must be [K, H, W], a byte per pixel");
  Strings strings(static_cast<size_t>(masks.size(0)));
  cpu::encode_bitmaps({masks.size(0), masks.size(1), masks.size(2), static_cast<const uint8_t*>(masks.const_data_ptr()),
                       strings.data()},
                      torch_threads());
  return pack_strings(strings, masks);
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("encode", TORCH_BOX(&htc::encode_cpu)); }
