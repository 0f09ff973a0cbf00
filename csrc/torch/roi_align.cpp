// multi_level_roi_align and its backward: adapter. `roi_align` is the case of one level.
#include <cmath>
#include <string>

#include "torch/common.h"

namespace htc {
namespace {

struct Options {
  int64_t out_h, out_w;
  std::vector<double> scales;
  int64_t sampling_ratio;
  bool aligned;
  double finest_size;
  double semantic_scale;
  int64_t semantic_grid;
};

RoiAlign describe(const Tensor& rois, const Options& o, int64_t images, int64_t channels, int64_t levels,
                  bool has_semantic) {
  STD_TORCH_CHECK(levels >= 1 && levels <= 8, "roi_align: expected 1 to 8 levels, got ", levels);
  STD_TORCH_CHECK(static_cast<int64_t>(o.scales.size()) == levels,
                  "roi_align: expected one spatial scale per level, got ", o.scales.size(), " for ", levels, " levels");
  STD_TORCH_CHECK((rois.dim() == 2 && rois.size(1) == 5) || (rois.dim() == 3 && rois.size(2) == 4),
                  "roi_align: rois must be [K, 5] or [N, R, 4]");
  STD_TORCH_CHECK(rois.dim() == 2 || rois.size(0) == images, "roi_align: rois [N, R, 4] are of ", rois.size(0),
                  " images, the features of ", images);
  RoiAlign op{};
  op.levels = static_cast<int>(levels);
  op.has_semantic = has_semantic;
  op.images = images;
  op.channels = channels;
  op.count = rois.dim() == 3 ? rois.size(0) * rois.size(1) : rois.size(0);
  op.rois_per_image = rois.dim() == 3 ? rois.size(1) : 0;
  op.rois = static_cast<const float*>(rois.const_data_ptr());
  op.out_h = static_cast<int>(o.out_h);
  op.out_w = static_cast<int>(o.out_w);
  op.sampling_ratio = static_cast<int>(o.sampling_ratio);
  op.semantic_grid = static_cast<int>(o.semantic_grid);
  op.aligned = o.aligned;
  op.finest_size = static_cast<float>(o.finest_size);
  return op;
}

FeatureMap describe_map(const Tensor& map, double scale) {
  return {const_cast<void*>(map.const_data_ptr()),
          map.size(2),
          map.size(3),
          static_cast<float>(scale),
          map.stride(0),
          map.stride(1),
          map.stride(2),
          map.stride(3)};
}

Tensor float_rois(const Tensor& rois) { return torch::stable::contiguous(torch::stable::to(rois, ScalarType::Float)); }

// On the CPU looking costs nothing; on CUDA such rows give zeros instead.
void check_images(const RoiAlign& op) {
  if (op.rois_per_image || op.count == 0) return;
  for (int64_t k = 0; k < op.count; ++k) {
    const float image = op.rois[5 * k];
    STD_TORCH_CHECK(std::isnan(image) || (image >= 0 && image < static_cast<float>(op.images)), "roi_align: rois[", k,
                    ", 0] names image ", image, ", but there are ", op.images, " images: expected 0 to ",
                    op.images - 1);
  }
}

Tensor forward_cpu(const std::vector<Tensor>& features, const Tensor& rois_any, int64_t out_h, int64_t out_w,
                   const std::vector<double>& scales, int64_t sampling_ratio, bool aligned, double finest_size,
                   const std::optional<Tensor>& semantic, double semantic_scale, int64_t semantic_grid) {
  const Tensor rois = float_rois(rois_any);
  const Options options{out_h, out_w, scales, sampling_ratio, aligned, finest_size, semantic_scale, semantic_grid};
  STD_TORCH_CHECK(!features.empty(), "roi_align: expected 1 to 8 levels, got none");
  const Tensor& first = features[0];
  STD_TORCH_CHECK(first.dim() == 4, "roi_align: feature maps must be [N, C, H, W]");
  RoiAlign op = describe(rois, options, first.size(0), first.size(1), static_cast<int64_t>(features.size()),
                         semantic.has_value());
  std::vector<Tensor> maps = features;
  if (semantic) maps.push_back(*semantic);
  for (size_t m = 0; m < maps.size(); ++m) {
    STD_TORCH_CHECK(maps[m].dim() == 4 && maps[m].size(0) == op.images && maps[m].size(1) == op.channels &&
                        maps[m].scalar_type() == first.scalar_type() && maps[m].is_cpu(),
                    "roi_align: all maps must be [N, C, H, W] with the same N, C, type and device");
    op.maps[m] = describe_map(maps[m], m < features.size() ? scales[m] : semantic_scale);
  }
  op.dtype = dtype_of(first);
  check_images(op);
  Tensor out = torch::stable::new_empty(first, {op.count, out_h, out_w, op.channels});
  advise_huge_pages(out, element_size(op.dtype));
  op.out = out.mutable_data_ptr();
  if (op.count * op.channels > 0) cpu::roi_align(op, torch_threads());
  return torch::stable::permute(out, {0, 3, 1, 2});
}

// sizes: N, then height and width of every level and, last, of the semantic map.
std::vector<Tensor> backward_cpu(const Tensor& grad, const Tensor& rois_any, const std::vector<int64_t>& sizes,
                                 const std::vector<double>& scales, int64_t sampling_ratio, bool aligned,
                                 double finest_size, bool has_semantic, double semantic_scale, int64_t semantic_grid) {
  STD_TORCH_CHECK(grad.dim() == 4, "roi_align_backward: grad must be [K, C, h, w]");
  const Tensor rois = float_rois(rois_any);
  const Options options{grad.size(2), grad.size(3), scales,         sampling_ratio,
                        aligned,      finest_size,  semantic_scale, semantic_grid};
  const int64_t maps = (static_cast<int64_t>(sizes.size()) - 1) / 2;
  RoiAlign op = describe(rois, options, sizes.at(0), grad.size(1), maps - has_semantic, has_semantic);
  STD_TORCH_CHECK(grad.size(0) == op.count, "roi_align_backward: grad is of ", grad.size(0), " RoIs, rois are ",
                  op.count);
  op.dtype = dtype_of(grad);
  check_images(op);
  const Tensor dense = torch::stable::contiguous(torch::stable::permute(grad, {0, 2, 3, 1}));
  op.out = const_cast<void*>(dense.const_data_ptr());
  const ScalarType sum = op.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
  std::vector<Tensor> grads;
  for (int64_t m = 0; m < maps; ++m) {
    const int64_t height = sizes[1 + 2 * m], width = sizes[2 + 2 * m];
    grads.push_back(torch::stable::new_empty(grad, {op.images, height, width, op.channels}, sum));
    advise_huge_pages(grads.back(), element_size(op.dtype == DType::f64 ? DType::f64 : DType::f32));
    op.maps[m] = {grads.back().mutable_data_ptr(),
                  height,
                  width,
                  static_cast<float>(m < op.levels ? scales[m] : semantic_scale),
                  height * width * op.channels,
                  1,
                  width * op.channels,
                  op.channels};
  }
  cpu::roi_align_backward(op, torch_threads());
  for (Tensor& one : grads) one = torch::stable::permute(torch::stable::to(one, grad.scalar_type()), {0, 3, 1, 2});
  return grads;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_FRAGMENT(htc_fast, m) {
  m.def(
      "multi_level_roi_align(Tensor[] features, Tensor rois, int out_h, int out_w, float[] spatial_scales, "
      "int sampling_ratio, bool aligned, float finest_size, Tensor? semantic, float semantic_scale, "
      "int semantic_grid) -> Tensor");
  m.def(
      "multi_level_roi_align_backward(Tensor grad, Tensor rois, int[] sizes, float[] spatial_scales, "
      "int sampling_ratio, bool aligned, float finest_size, bool has_semantic, float semantic_scale, "
      "int semantic_grid) -> Tensor[]");
}
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("multi_level_roi_align", TORCH_BOX(&htc::forward_cpu));
  m.impl("multi_level_roi_align_backward", TORCH_BOX(&htc::backward_cpu));
}
