// What adapters of masks as data share: runs as tensors. runs [T, 2] (begin, end), offsets [K + 1], sizes [K, 2]
// (height, width), all int64 on the host.
#pragma once
#include "masks.h"
#include "torch/encode_masks.h"

namespace htc {

inline const int64_t* int64s(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Long && tensor.is_cpu() && tensor.is_contiguous(),
                  "htc_fast: runs are contiguous int64 tensors on the CPU");
  return static_cast<const int64_t*>(tensor.const_data_ptr());
}

inline RunMasks describe_run_masks(const Tensor& runs, const Tensor& offsets, const Tensor& sizes) {
  return {sizes.size(0), int64s(runs), int64s(offsets), int64s(sizes)};
}

// runs [T, 2] and offsets [K + 1] of what a kernel made.
inline std::tuple<Tensor, Tensor> pack_runs(const std::vector<OneRuns>& made, const Tensor& like) {
  const torch::stable::Device host(torch::headeronly::DeviceType::CPU);
  const int64_t count = static_cast<int64_t>(made.size());
  Tensor offsets = torch::stable::new_empty(like, {count + 1}, ScalarType::Long, std::nullopt, host);
  int64_t* starts = static_cast<int64_t*>(offsets.mutable_data_ptr());
  starts[0] = 0;
  for (int64_t k = 0; k < count; ++k)
    starts[k + 1] = starts[k] + static_cast<int64_t>(made[static_cast<size_t>(k)].size());
  Tensor runs = torch::stable::new_empty(like, {starts[count], 2}, ScalarType::Long, std::nullopt, host);
  auto* out = reinterpret_cast<std::pair<int64_t, int64_t>*>(runs.mutable_data_ptr());
  for (const OneRuns& one : made) out = std::copy(one.begin(), one.end(), out);
  return {runs, offsets};
}

}  // namespace htc
