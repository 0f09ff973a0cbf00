// rle_to_polygons: adapter.
#include "torch/run_strings.h"

namespace htc {
namespace {

Tensor int64_tensor(const std::vector<int64_t>& values, const Tensor& like) {
  Tensor out = torch::stable::new_empty(like, {static_cast<int64_t>(values.size())}, ScalarType::Long);
  std::copy(values.begin(), values.end(), static_cast<int64_t*>(out.mutable_data_ptr()));
  return out;
}

// points [P * 2] and where rings begin in them, pieces in rings, masks in pieces.
std::tuple<Tensor, Tensor, Tensor, Tensor> rle_to_polygons(const Tensor& runs, const Tensor& offsets,
                                                           const Tensor& sizes, bool bridged) {
  std::vector<Outlines> each(static_cast<size_t>(sizes.size(0)));
  cpu::rle_to_polygons({describe_run_masks(runs, offsets, sizes), bridged, each.data()}, torch_threads());
  Outlines all{{}, {0}, {0}};
  std::vector<int64_t> masks{0};
  for (Outlines& one : each) {
    const int64_t points = all.rings.back(), rings = all.pieces.back();
    all.points.insert(all.points.end(), one.points.begin(), one.points.end());
    for (size_t i = 1; i < one.rings.size(); ++i) all.rings.push_back(points + one.rings[i]);
    for (size_t i = 1; i < one.pieces.size(); ++i) all.pieces.push_back(rings + one.pieces[i]);
    masks.push_back(static_cast<int64_t>(all.pieces.size()) - 1);
    one = {};
  }
  return {int64_tensor(all.points, sizes), int64_tensor(all.rings, sizes), int64_tensor(all.pieces, sizes),
          int64_tensor(masks, sizes)};
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) { m.impl("rle_to_polygons", TORCH_BOX(&htc::rle_to_polygons)); }
