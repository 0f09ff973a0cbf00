// encode_masks: adapter. All strings come back in one buffer, with where each begins.
#include <algorithm>

#include "torch/common.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor> encode_masks_cpu(const Tensor& masks_any, const Tensor& boxes_any, int64_t height,
                                            int64_t width, double threshold) {
  STD_TORCH_CHECK(
      masks_any.dim() == 3 && boxes_any.dim() == 2 && boxes_any.size(1) == 4 && boxes_any.size(0) == masks_any.size(0),
      "encode_masks: masks must be [K, h, w] and boxes [K, 4] of the same K");
  STD_TORCH_CHECK(height >= 0 && width >= 0, "encode_masks: the image's size must not be negative");
  const Tensor masks = torch::stable::contiguous(torch::stable::to(masks_any, ScalarType::Float));
  const Tensor boxes = torch::stable::contiguous(torch::stable::to(boxes_any, ScalarType::Float));
  std::vector<std::string> strings(static_cast<size_t>(masks.size(0)));
  cpu::encode_masks(
      {masks.size(0), static_cast<int>(masks.size(1)), static_cast<int>(masks.size(2)),
       static_cast<const float*>(masks.const_data_ptr()), static_cast<const float*>(boxes.const_data_ptr()), height,
       width, static_cast<float>(threshold), &strings},
      torch_threads());
  Tensor offsets = torch::stable::new_empty(masks, {masks.size(0) + 1}, ScalarType::Long);
  int64_t* starts = static_cast<int64_t*>(offsets.mutable_data_ptr());
  starts[0] = 0;
  for (size_t k = 0; k < strings.size(); ++k) starts[k + 1] = starts[k] + static_cast<int64_t>(strings[k].size());
  Tensor bytes = torch::stable::new_empty(masks, {starts[strings.size()]}, ScalarType::Byte);
  uint8_t* out = static_cast<uint8_t*>(bytes.mutable_data_ptr());
  for (const std::string& one : strings) out = std::copy(one.begin(), one.end(), out);
  return {bytes, offsets};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_FRAGMENT(htc_fast, m) {
  m.def("encode_masks(Tensor masks, Tensor boxes, int height, int width, float threshold) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("encode_masks", TORCH_BOX(&htc::encode_masks_cpu)); }
