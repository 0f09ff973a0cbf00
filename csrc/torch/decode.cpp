// decode: adapter. All masks are of one image's size; `like` says where they shall lie.
#include "torch/run_strings.h"

namespace htc {
namespace {

Tensor decode_cpu(const Tensor& runs, const Tensor& offsets, const Tensor& like, int64_t height, int64_t width) {
  Tensor masks = torch::stable::new_empty(like, {offsets.numel() - 1, height, width}, ScalarType::Bool);
  advise_huge_pages(masks, 1);
  cpu::decode_runs({{offsets.numel() - 1, int64s(runs), int64s(offsets), nullptr},
                    height,
                    width,
                    static_cast<uint8_t*>(masks.mutable_data_ptr())},
                   torch_threads());
  return masks;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("decode", TORCH_BOX(&htc::decode_cpu)); }
