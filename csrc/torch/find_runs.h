// The way of runs from a GPU to strings on the host, for every operator that makes masks there: one copy, one wait.
#pragma once
#include <algorithm>

#include "masks.h"
#include "torch/common.h"

namespace htc {

using Strings = std::vector<std::string>;

// How many runs to make room for: one for each column of masks a quarter as wide as the image, and 4 MB at most. The
// true bound, a run on every second pixel, would be thousands of times what there is.
template <class Operator>
int64_t likely_runs(const Operator& op) {
  const int64_t one = std::min(std::max<int64_t>(64, op.width / 4), op.width * (op.height / 2 + 1));
  return std::min<int64_t>(op.count * one, int64_t{1} << 19);
}

// The packet that find(packet, room) makes on the device (cuda::find_runs), on the host: one copy, one wait, and both
// once more where there are more runs than there was room for.
template <class Operator, class Find>
Tensor runs_on_host(const char* name, const Operator& op, const Tensor& like, int64_t room, Find find) {
  const torch::stable::Device host(torch::headeronly::DeviceType::CPU);
  const int64_t header = 1 + op.count * cuda::run_parts(op);
  while (true) {
    Tensor packet = torch::stable::new_empty(like, {header + room}, ScalarType::Long);
    find(static_cast<uint64_t*>(packet.mutable_data_ptr()), room);
    Tensor found =
        torch::stable::new_empty(like, {header + room}, ScalarType::Long, std::nullopt, host, like.is_cuda());
    torch::stable::copy_(found, packet);
    const int64_t total = *static_cast<const int64_t*>(found.const_data_ptr());
    if (total <= room) return found;
    STD_TORCH_CHECK(total < (int64_t{1} << 32), name, ": on CUDA at most 2^32 - 1 runs at once, got ", total);
    room = total;
  }
}

template <class Operator>
CompressRuns describe_runs(const Operator& op, const Tensor& packet, Strings& strings) {
  const uint32_t* places = static_cast<const uint32_t*>(packet.const_data_ptr()) + 2;
  const int64_t parts = cuda::run_parts(op);
  return {op.count, parts, op.height * op.width, places, places + 2 * op.count * parts, &strings};
}

constexpr int64_t kMostColumns = 65535 * 32;  // as many blocks as a grid has, of 32 columns or more

// What kernels that find runs can count.
template <class Operator>
void check_image(const char* name, const Operator& op) {
  STD_TORCH_CHECK(op.width == 0 || op.height < (int64_t{1} << 32) / op.width, name,
                  ": on CUDA an image has fewer than 2^32 pixels, got ", op.height, " x ", op.width);
  STD_TORCH_CHECK(op.width <= kMostColumns, name, ": on CUDA an image has at most ", kMostColumns, " columns, got ",
                  op.width);
}

}  // namespace htc
