// place_runs, paint_runs, measure_layers, take_pixels: adapter. All on the host.
#include <algorithm>

#include "torch/run_strings.h"

namespace htc {
namespace {

ScalarType type_of(int64_t bytes) {
  STD_TORCH_CHECK(bytes == 1 || bytes == 2 || bytes == 4, "index maps have 1, 2 or 4 bytes per pixel, got ", bytes);
  return bytes == 1 ? ScalarType::Byte : bytes == 2 ? ScalarType::Short : ScalarType::Int;
}

int bytes_of(const Tensor& maps) {
  const ScalarType type = maps.scalar_type();
  STD_TORCH_CHECK(maps.dim() == 3 && maps.is_cpu() && maps.is_contiguous(),
                  "index maps are contiguous [L, H, W] on the CPU");
  STD_TORCH_CHECK(type == ScalarType::Byte || type == ScalarType::Short || type == ScalarType::Int,
                  "index maps are uint8, int16 or int32");
  return type == ScalarType::Byte ? 1 : type == ScalarType::Short ? 2 : 4;
}

// Whether all of them are in [0, limit).
bool within(const int64_t* values, int64_t count, int64_t limit) {
  return std::all_of(values, values + count, [limit](int64_t one) { return one >= 0 && one < limit; });
}

Tensor place_runs(const Tensor& runs, const Tensor& offsets, const Tensor& sizes) {
  Tensor layers = torch::stable::new_empty(sizes, {sizes.size(0)}, ScalarType::Long);
  cpu::place_runs({describe_run_masks(runs, offsets, sizes), static_cast<int64_t*>(layers.mutable_data_ptr())},
                  torch_threads());
  return layers;
}

Tensor paint_runs(const Tensor& runs, const Tensor& offsets, const Tensor& sizes, const Tensor& order,
                  const Tensor& values, const Tensor& layers, int64_t maps, int64_t height, int64_t width, int64_t fill,
                  int64_t bytes) {
  const RunMasks masks = describe_run_masks(runs, offsets, sizes);
  const int64_t count = order.size(0);
  STD_TORCH_CHECK(values.size(0) == count && layers.size(0) == count, "paint_runs: order, values, layers are of one K");
  STD_TORCH_CHECK(within(int64s(order), count, masks.count) && within(int64s(layers), count, maps),
                  "paint_runs: no such mask or map");
  for (int64_t k = 0; k < masks.count; ++k)
    STD_TORCH_CHECK(masks.sizes[2 * k] == height && masks.sizes[2 * k + 1] == width,
                    "paint_runs: masks must be of one image's size, ", height, " x ", width);
  Tensor out = torch::stable::new_empty(runs, {maps, height, width}, type_of(bytes));
  cpu::paint_runs({masks, count, height, width, maps, fill, int64s(order), int64s(values), int64s(layers),
                   static_cast<int>(bytes), out.mutable_data_ptr()},
                  torch_threads());
  return out;
}

Tensor measure_layers(const Tensor& layers, int64_t length) {
  const int bytes = bytes_of(layers);
  STD_TORCH_CHECK(bytes != 1 && length >= 0, "measure_layers: layers are int16 or int32");
  Tensor out = torch::stable::new_empty(layers, {length, 6}, ScalarType::Long);
  cpu::measure_layers({layers.size(0), layers.size(1), layers.size(2), length, bytes, layers.const_data_ptr(),
                       static_cast<int64_t*>(out.mutable_data_ptr())},
                      torch_threads());
  return out;
}

Tensor take_pixels(const Tensor& maps, const Tensor& rows, const Tensor& columns) {
  const int bytes = bytes_of(maps);
  STD_TORCH_CHECK(
      within(int64s(rows), rows.size(0), maps.size(1)) && within(int64s(columns), columns.size(0), maps.size(2)),
      "take_pixels: no such row or column");
  Tensor out = torch::stable::new_empty(maps, {maps.size(0), rows.size(0), columns.size(0)});
  cpu::take_pixels({maps.size(0), maps.size(1), maps.size(2), rows.size(0), columns.size(0), int64s(rows),
                    int64s(columns), bytes, maps.const_data_ptr(), out.mutable_data_ptr()},
                   torch_threads());
  return out;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("place_runs", TORCH_BOX(&htc::place_runs));
  m.impl("paint_runs", TORCH_BOX(&htc::paint_runs));
  m.impl("measure_layers", TORCH_BOX(&htc::measure_layers));
  m.impl("take_pixels", TORCH_BOX(&htc::take_pixels));
}
