// The mask operators' emulated kernels as torch operators: torch.ops.htc_simt.*. No checks: tests behave.
#define HTC_INSTRUCTION_SET emulator
#include "cpu/run_lengths.h"
#include "torch/common.h"

namespace htc {
namespace {

// out [K, H, W] uint8
void paste_masks(Tensor masks, Tensor boxes, double threshold, Tensor out) {
  cuda::paste_masks(
      {masks.size(0), static_cast<int>(masks.size(1)), static_cast<int>(masks.size(2)),
       static_cast<const float*>(masks.const_data_ptr()), static_cast<const float*>(boxes.const_data_ptr()),
       out.size(1), out.size(2), static_cast<float>(threshold), static_cast<uint8_t*>(out.mutable_data_ptr())},
      nullptr);
}

// Runs [total, 2] of int32, and where every mask's begin [K + 1].
std::tuple<Tensor, Tensor> find_runs(Tensor masks, Tensor boxes, int64_t height, int64_t width, double threshold) {
  const EncodeMasks op{masks.size(0),
                       static_cast<int>(masks.size(1)),
                       static_cast<int>(masks.size(2)),
                       static_cast<const float*>(masks.const_data_ptr()),
                       static_cast<const float*>(boxes.const_data_ptr()),
                       height,
                       width,
                       static_cast<float>(threshold),
                       nullptr};
  Tensor workspace = torch::stable::new_empty(masks, {cuda::encode_masks_workspace(op)}, ScalarType::Byte);
  torch::stable::fill_(workspace, 255);
  Tensor offsets = torch::stable::new_empty(masks, {op.count + 1}, ScalarType::Long);
  int64_t* starts = static_cast<int64_t*>(offsets.mutable_data_ptr());
  cuda::count_runs(op, workspace.mutable_data_ptr(), starts, nullptr);
  Tensor runs = torch::stable::new_empty(masks, {starts[op.count], 2}, ScalarType::Int);
  if (starts[op.count] > 0)
    cuda::write_runs(op, workspace.const_data_ptr(), static_cast<uint32_t*>(runs.mutable_data_ptr()), nullptr);
  return {runs, offsets};
}

// The string of one mask's runs, as csrc/cpu/compress_runs.cpp makes it: one character per element.
Tensor compress_runs(Tensor runs, int64_t pixels) {
  const uint32_t* pairs = static_cast<const uint32_t*>(runs.const_data_ptr());
  cpu::emulator::Runs joined;
  for (int64_t i = 0; i < runs.size(0); i++) joined.add(pairs[2 * i], pairs[2 * i + 1]);
  const std::string string = cpu::emulator::compress(joined, pixels);
  Tensor out = torch::stable::new_empty(runs, {static_cast<int64_t>(string.size())}, ScalarType::Byte);
  std::copy(string.begin(), string.end(), static_cast<char*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_FRAGMENT(htc_simt, m) {
  m.def("paste_masks(Tensor masks, Tensor boxes, float threshold, Tensor(a!) out) -> ()");
  m.def("find_runs(Tensor masks, Tensor boxes, int height, int width, float threshold) -> (Tensor, Tensor)");
  m.def("compress_runs(Tensor runs, int pixels) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(htc_simt, CPU, m) {
  m.impl("paste_masks", TORCH_BOX(&htc::paste_masks));
  m.impl("find_runs", TORCH_BOX(&htc::find_runs));
  m.impl("compress_runs", TORCH_BOX(&htc::compress_runs));
}
