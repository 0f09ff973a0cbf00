// What the adapter of encode_masks and the emulator's share: the arguments, the way to the host, the strings' packing.
#pragma once
#include <algorithm>

#include "torch/common.h"

namespace htc {

using Strings = std::vector<std::string>;

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

// How many runs to make room for: one for each column of boxes a quarter as wide as the image, and 4 MB at most. The
// true bound, a run on every second pixel, would be thousands of times what there is.
inline int64_t likely_runs(const EncodeMasks& op) {
  const int64_t one = std::min(std::max<int64_t>(64, op.width / 4), op.width * (op.height / 2 + 1));
  return std::min<int64_t>(op.count * one, int64_t{1} << 19);
}

// The packet of cuda::find_runs, on the host: one copy, one wait, and both once more where there are more runs than
// there was room for.
inline Tensor runs_on_host(const EncodeMasks& op, const Tensor& like, int64_t room, Stream stream) {
  const torch::stable::Device host(torch::headeronly::DeviceType::CPU);
  const int64_t header = 1 + op.count * cuda::run_parts(op);
  while (true) {
    Tensor packet = torch::stable::new_empty(like, {header + room}, ScalarType::Long);
    cuda::find_runs(op, static_cast<uint64_t*>(packet.mutable_data_ptr()), room, stream);
    Tensor found =
        torch::stable::new_empty(like, {header + room}, ScalarType::Long, std::nullopt, host, like.is_cuda());
    torch::stable::copy_(found, packet);
    const int64_t total = *static_cast<const int64_t*>(found.const_data_ptr());
    if (total <= room) return found;
    STD_TORCH_CHECK(total < (int64_t{1} << 32), "encode_masks: on CUDA at most 2^32 - 1 runs at once, got ", total);
    room = total;
  }
}

inline CompressRuns describe_runs(const EncodeMasks& op, const Tensor& packet) {
  const uint32_t* places = static_cast<const uint32_t*>(packet.const_data_ptr()) + 2;
  const int64_t parts = cuda::run_parts(op);
  return {op.count, parts, op.height * op.width, places, places + 2 * op.count * parts, op.strings};
}

}  // namespace htc
