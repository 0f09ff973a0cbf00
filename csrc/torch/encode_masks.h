// What the adapter of encode_masks and the emulator's share: the arguments, the strings' packing.
#pragma once
#include "torch/find_runs.h"

namespace htc {

inline Tensor floats(const Tensor& any) { return torch::stable::contiguous(torch::stable::to(any, ScalarType::Float)); }

inline EncodeMasks describe_masks(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                                  double threshold, Strings& strings) {
  STD_TORCH_CHECK(masks.dim() == 3 && boxes.dim() == 2 && boxes.size(1) == 4 && boxes.size(0) == masks.size(0),
                  "encode_masks: masks must be [K, h, w] and boxes [K, 4] of the same K");
  STD_TORCH_CHECK(height >= 0 && width >= 0, "encode_masks: the image's size must not be negative");
  strings.resize(static_cast<size_t>(masks.size(0)));
  return {masks.size(0),
          static_cast<int>(masks.size(1)),
          static_cast<int>(masks.size(2)),
          static_cast<const float*>(masks.const_data_ptr()),
          static_cast<const float*>(boxes.const_data_ptr()),
          height,
          width,
          static_cast<float>(threshold),
          &strings};
}

// All strings in one buffer of the host's, with where each begins.
inline std::tuple<Tensor, Tensor> pack_strings(const Strings& strings, const Tensor& like) {
  const torch::stable::Device host(torch::headeronly::DeviceType::CPU);
  const auto empty = [&](int64_t size, ScalarType type) {
    return torch::stable::new_empty(like, {size}, type, std::nullopt, host);
  };
  Tensor offsets = empty(static_cast<int64_t>(strings.size()) + 1, ScalarType::Long);
  int64_t* starts = static_cast<int64_t*>(offsets.mutable_data_ptr());
  starts[0] = 0;
  for (size_t k = 0; k < strings.size(); ++k) starts[k + 1] = starts[k] + static_cast<int64_t>(strings[k].size());
  Tensor bytes = empty(starts[strings.size()], ScalarType::Byte);
  uint8_t* out = static_cast<uint8_t*>(bytes.mutable_data_ptr());
  for (const std::string& one : strings) out = std::copy(one.begin(), one.end(), out);
  return {bytes, offsets};
}

}  // namespace htc
