// encode_masks: adapter. All strings come back in one buffer of the host's, with where each begins.
#include <algorithm>

#include "torch/common.h"

namespace htc {
namespace {

using Strings = std::vector<std::string>;

EncodeMasks describe(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold,
                     Strings& strings) {
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

Tensor floats(const Tensor& any) { return torch::stable::contiguous(torch::stable::to(any, ScalarType::Float)); }

std::tuple<Tensor, Tensor> pack(const Strings& strings, const Tensor& like) {
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

std::tuple<Tensor, Tensor> encode_masks_cpu(const Tensor& masks_any, const Tensor& boxes_any, int64_t height,
                                            int64_t width, double threshold) {
  const Tensor masks = floats(masks_any), boxes = floats(boxes_any);
  Strings strings;
  cpu::encode_masks(describe(masks, boxes, height, width, threshold, strings), torch_threads());
  return pack(strings, masks);
}

#ifdef HTC_CUDA
// The host waits twice, however many masks there are: for how many runs there are, and for the runs.
std::tuple<Tensor, Tensor> encode_masks_cuda(const Tensor& masks_any, const Tensor& boxes_any, int64_t height,
                                             int64_t width, double threshold) {
  const Tensor masks = floats(masks_any), boxes = floats(boxes_any);
  STD_TORCH_CHECK(width == 0 || height < (int64_t{1} << 32) / width,
                  "encode_masks: on CUDA an image has fewer than 2^32 pixels, got ", height, " x ", width);
  STD_TORCH_CHECK(masks.size(1) <= 8192, "encode_masks: on CUDA masks have at most 8192 rows, got ", masks.size(1));
  Strings strings;
  const EncodeMasks op = describe(masks, boxes, height, width, threshold, strings);
  const torch::stable::Device host(torch::headeronly::DeviceType::CPU);
  torch::stable::accelerator::DeviceGuard guard(masks.get_device_index());
  const Stream stream = current_stream(masks.get_device_index());
  Tensor workspace = torch::stable::new_empty(masks, {cuda::encode_masks_workspace(op)}, ScalarType::Byte);
  Tensor offsets = torch::stable::new_empty(masks, {op.count + 1}, ScalarType::Long);
  cuda::count_runs(op, workspace.mutable_data_ptr(), static_cast<int64_t*>(offsets.mutable_data_ptr()), stream);
  const Tensor starts = torch::stable::to(offsets, host);
  const int64_t* first = static_cast<const int64_t*>(starts.const_data_ptr());
  Tensor runs = torch::stable::new_empty(masks, {first[op.count], 2}, ScalarType::Int);
  if (first[op.count] > 0)
    cuda::write_runs(op, workspace.const_data_ptr(), static_cast<uint32_t*>(runs.mutable_data_ptr()), stream);
  const Tensor found = torch::stable::to(runs, host);
  cpu::compress_runs({op.count, height * width, first, static_cast<const uint32_t*>(found.const_data_ptr()), &strings},
                     torch_threads());
  return pack(strings, masks);
}
#endif

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("encode_masks", TORCH_BOX(&htc::encode_masks_cpu)); }
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) { m.impl("encode_masks", TORCH_BOX(&htc::encode_masks_cuda)); }
#endif
