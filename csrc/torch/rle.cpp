// merge_runs, transform_runs: adapters of the algebra on runs.
#include "torch/run_strings.h"

namespace htc {
namespace {

std::tuple<Tensor, Tensor> merge_runs(const Tensor& runs, const Tensor& offsets, const Tensor& sizes, bool intersect) {
  STD_TORCH_CHECK(sizes.size(0) > 0, "merge_runs: nothing to merge");
  std::vector<OneRuns> merged(1);
  cpu::merge_runs({describe_run_masks(runs, offsets, sizes), intersect, merged.data()}, torch_threads());
  return pack_runs(merged, sizes);
}

// All masks are [height, width] with height + 1 the length of `rows`.
std::tuple<Tensor, Tensor> transform_runs(const Tensor& runs, const Tensor& offsets, const Tensor& columns,
                                          const Tensor& rows, int64_t width, int64_t out_height) {
  std::vector<OneRuns> made(static_cast<size_t>(offsets.size(0) - 1));
  const RunMasks masks{offsets.size(0) - 1, int64s(runs), int64s(offsets), nullptr};
  cpu::transform_runs(
      {masks, rows.size(0) - 1, width, out_height, columns.size(0), int64s(columns), int64s(rows), made.data()},
      torch_threads());
  return pack_runs(made, runs);
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("merge_runs", TORCH_BOX(&htc::merge_runs));
  m.impl("transform_runs", TORCH_BOX(&htc::transform_runs));
}
