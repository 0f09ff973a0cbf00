// read_runs, write_runs: adapter.
#include "torch/run_strings.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor, Tensor> read_runs(const Tensor& text, const Tensor& offsets, const Tensor& sizes) {
  std::vector<OneRuns> runs(static_cast<size_t>(sizes.size(0)));
  Tensor faults = torch::stable::new_empty(sizes, {sizes.size(0)}, ScalarType::Byte);
  cpu::read_runs({sizes.size(0), static_cast<const char*>(text.const_data_ptr()), int64s(offsets), int64s(sizes),
                  runs.data(), static_cast<uint8_t*>(faults.mutable_data_ptr())},
                 torch_threads());
  const auto [packed, ends] = pack_runs(runs, sizes);
  return {packed, ends, faults};
}

std::tuple<Tensor, Tensor> write_runs(const Tensor& runs, const Tensor& offsets, const Tensor& sizes) {
  Strings strings(static_cast<size_t>(sizes.size(0)));
  cpu::write_runs({describe_run_masks(runs, offsets, sizes), strings.data()}, torch_threads());
  return pack_strings(strings, sizes);
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("read_runs", TORCH_BOX(&htc::read_runs));
  m.impl("write_runs", TORCH_BOX(&htc::write_runs));
}
