// rasterize, rasterize_in_boxes: adapter.
#include "torch/run_strings.h"

namespace htc {
namespace {

Polygons describe_polygons(const Tensor& points, const Tensor& parts, const Tensor& objects) {
  STD_TORCH_CHECK(points.scalar_type() == ScalarType::Double && points.is_cpu() && points.is_contiguous(),
                  "rasterize: points are a contiguous float64 tensor on the CPU");
  return {objects.size(0) - 1, static_cast<const double*>(points.const_data_ptr()), int64s(parts), int64s(objects)};
}

std::tuple<Tensor, Tensor> rasterize(const Tensor& points, const Tensor& parts, const Tensor& objects, int64_t height,
                                     int64_t width) {
  Strings strings(static_cast<size_t>(objects.size(0) - 1));
  cpu::rasterize({describe_polygons(points, parts, objects), height, width, strings.data()}, torch_threads());
  return pack_strings(strings, points);
}

Tensor rasterize_in_boxes(const Tensor& points, const Tensor& parts, const Tensor& objects, const Tensor& boxes,
                          const Tensor& index, int64_t size, bool single) {
  STD_TORCH_CHECK(boxes.scalar_type() == ScalarType::Double && boxes.is_cpu() && boxes.is_contiguous(),
                  "rasterize_in_boxes: boxes are a contiguous float64 tensor on the CPU");
  const int64_t count = boxes.size(0);
  Tensor out = torch::stable::new_empty(boxes, {count, size, size}, ScalarType::Bool);
  cpu::rasterize_in_boxes(
      {describe_polygons(points, parts, objects), count, size, static_cast<const double*>(boxes.const_data_ptr()),
       int64s(index), single, static_cast<uint8_t*>(out.mutable_data_ptr())},
      torch_threads());
  return out;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("rasterize", TORCH_BOX(&htc::rasterize));
  m.impl("rasterize_in_boxes", TORCH_BOX(&htc::rasterize_in_boxes));
}
