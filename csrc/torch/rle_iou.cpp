// rle_iou, mask_nms, merge_tiles: adapter. Runs are the host's; only mask_iou has whole masks.
#include "torch/run_strings.h"

namespace htc {
namespace {

const int64_t* classes_of(const std::optional<Tensor>& classes) { return classes ? int64s(*classes) : nullptr; }

Tensor rle_iou(const Tensor& runs_a, const Tensor& offsets_a, const Tensor& sizes_a, const Tensor& runs_b,
               const Tensor& offsets_b, const Tensor& sizes_b, const std::optional<Tensor>& crowd) {
  const RunMasks a = describe_run_masks(runs_a, offsets_a, sizes_a), b = describe_run_masks(runs_b, offsets_b, sizes_b);
  Tensor out = torch::stable::new_empty(sizes_a, {a.count, b.count}, ScalarType::Double);
  advise_huge_pages(out, 8);
  STD_TORCH_CHECK(!crowd || (crowd->scalar_type() == ScalarType::Bool && crowd->is_cpu() && crowd->is_contiguous() &&
                             crowd->numel() == b.count),
                  "rle_iou: crowd must be [B] bool on the CPU");
  cpu::rle_iou({a, b, crowd ? static_cast<const uint8_t*>(crowd->const_data_ptr()) : nullptr,
                static_cast<double*>(out.mutable_data_ptr())},
               torch_threads());
  return out;
}

Tensor mask_nms(const Tensor& runs, const Tensor& offsets, const Tensor& sizes, const Tensor& order,
                const std::optional<Tensor>& classes, bool smaller, double threshold) {
  std::vector<int64_t> kept;
  cpu::mask_nms({describe_run_masks(runs, offsets, sizes),
                 order.size(0),
                 int64s(order),
                 classes_of(classes),
                 {smaller, threshold},
                 &kept},
                torch_threads());
  Tensor out = torch::stable::new_empty(sizes, {static_cast<int64_t>(kept.size())}, ScalarType::Long);
  std::copy(kept.begin(), kept.end(), static_cast<int64_t*>(out.mutable_data_ptr()));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> merge_tiles(const Tensor& runs, const Tensor& offsets, const Tensor& sizes,
                                               const Tensor& order, const std::optional<Tensor>& classes, bool smaller,
                                               double threshold) {
  Tensor groups = torch::stable::new_empty(sizes, {sizes.size(0)}, ScalarType::Long);
  std::vector<OneRuns> merged;
  cpu::merge_tiles({describe_run_masks(runs, offsets, sizes),
                    order.size(0),
                    int64s(order),
                    classes_of(classes),
                    {smaller, threshold},
                    static_cast<int64_t*>(groups.mutable_data_ptr()),
                    &merged},
                   torch_threads());
  const auto [packed, ends] = pack_runs(merged, sizes);
  return {packed, ends, groups};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("rle_iou", TORCH_BOX(&htc::rle_iou));
  m.impl("mask_nms", TORCH_BOX(&htc::mask_nms));
  m.impl("merge_tiles", TORCH_BOX(&htc::merge_tiles));
}
