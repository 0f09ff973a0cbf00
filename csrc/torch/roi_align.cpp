// multi_level_roi_align and its backward: adapter. `roi_align` is the case of one level.
#include "torch/roi_align.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>
#include <stdexcept>

namespace htc {
namespace {

const char* name_of(const PoolOptions& o) { return o.precise ? "pr_roi_pool" : "roi_align"; }

RoiAlign describe(const PoolRois& pool, const PoolOptions& o, int64_t images, int64_t channels, int64_t levels,
                  bool has_semantic) {
  const char* name = name_of(o);
  const Tensor& rois = pool.rounded;
  STD_TORCH_CHECK(levels >= 1 && levels <= 8, name, ": expected 1 to 8 levels, got ", levels);
  STD_TORCH_CHECK(static_cast<int64_t>(o.scales.size()) == levels, name, ": expected one spatial scale per level, got ",
                  o.scales.size(), " for ", levels, " levels");
  STD_TORCH_CHECK((rois.dim() == 2 && rois.size(1) == 5) || (rois.dim() == 3 && rois.size(2) == 4), name,
                  ": rois must be [K, 5] or [N, R, 4]");
  STD_TORCH_CHECK(rois.dim() == 2 || rois.size(0) == images, name, ": rois [N, R, 4] are of ", rois.size(0),
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
  op.precise = o.precise;
  op.exact_rois = pool.exact ? static_cast<const double*>(pool.exact->const_data_ptr()) : nullptr;
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

// On the CPU looking costs nothing; on CUDA such rows give zeros instead.
void check_images(const RoiAlign& op) {
  if (op.rois_per_image || op.count == 0) return;
  for (int64_t k = 0; k < op.count; ++k) {
    const float image = op.rois[5 * k];
    if (std::isnan(image) || (image >= 0 && image < static_cast<float>(op.images))) continue;
    // Thrown as it is: a check of torch's would put this file's name before the sentence.
    std::ostringstream what;
    what << (op.precise ? "pr_roi_pool" : "roi_align") << ": rois[" << k << ", 0] names image " << image
         << ", but there are " << op.images << " images, counted from 0.";
    throw std::runtime_error(what.str());
  }
}

// Kernels read NHWC; turning a map costs less than many RoIs reading it the other way.
Tensor channels_last(const Tensor& map) { return channels_second(torch::stable::contiguous(channels_at_the_end(map))); }

// Pixels that the RoIs read of one map, about; on CUDA they are not looked at.
double reads(const RoiAlign& op, double scale, bool look) {
  const double bins = static_cast<double>(op.out_h) * op.out_w;
  const double each = op.sampling_ratio > 0 ? std::min(4.0 * op.sampling_ratio * op.sampling_ratio, 64.0) : 16.0;
  if (!look || op.sampling_ratio > 0 || op.levels > 1 || op.rois_per_image)
    return each * bins * static_cast<double>(op.count);
  double area = 0;
  for (int64_t k = 0; k < op.count; ++k) {
    const float* box = op.rois + 5 * k + 1;
    const double side = (box[2] - box[0]) * scale * (box[3] - box[1]) * scale;
    area += std::max(std::isfinite(side) ? side : 0.0, 4 * bins);
  }
  return area;
}

bool worth_turning(const RoiAlign& op, const Tensor& map, double scale) {
  if (map.stride(1) == 1) return false;
  const double pixels = static_cast<double>(map.size(0) * map.size(2) * map.size(3));
  // With few channels C++ has no vectors to fill.
  if (map.is_cpu()) return op.channels >= 16 && reads(op, scale, true) > 2 * pixels;
  return 4 * reads(op, scale, false) > pixels;
}

// Allocates the maps' gradients, [N, H, W, C] of type `sum`, and describes them.
std::vector<Tensor> gradients(RoiAlign& op, const Tensor& like, const std::vector<int64_t>& sizes, const PoolOptions& o,
                              ScalarType sum) {
  std::vector<Tensor> grads;
  for (size_t m = 0; 2 * m + 2 < sizes.size(); ++m) {
    const int64_t height = sizes[1 + 2 * m], width = sizes[2 + 2 * m];
    grads.push_back(torch::stable::new_empty(like, {op.images, height, width, op.channels}, sum));
    op.maps[m] = {grads.back().mutable_data_ptr(),
                  height,
                  width,
                  static_cast<float>(static_cast<int>(m) < op.levels ? o.scales[m] : o.semantic_scale),
                  height * width * op.channels,
                  1,
                  width * op.channels,
                  op.channels};
  }
  return grads;
}

}  // namespace

PoolRois pool_rois(const Tensor& rois, const PoolOptions& o, ScalarType maps) {
  PoolRois out{torch::stable::contiguous(torch::stable::to(rois, ScalarType::Float)), std::nullopt};
  if (o.precise && maps == ScalarType::Double)
    out.exact = torch::stable::contiguous(torch::stable::to(rois, ScalarType::Double));
  return out;
}

RoiAlign describe_pool(std::vector<Tensor>& maps, bool has_semantic, const PoolRois& rois, const PoolOptions& o) {
  const char* name = name_of(o);
  const size_t levels = maps.size() - has_semantic;
  STD_TORCH_CHECK(levels >= 1, name, ": expected 1 to 8 levels, got none");
  const Tensor first = maps[0];
  STD_TORCH_CHECK(first.dim() == 4, name, ": feature maps must be [N, C, H, W]");
  RoiAlign op = describe(rois, o, first.size(0), first.size(1), static_cast<int64_t>(levels), has_semantic);
  op.dtype = dtype_of(first);
  for (size_t m = 0; m < maps.size(); ++m) {
    STD_TORCH_CHECK(maps[m].dim() == 4 && maps[m].size(0) == op.images && maps[m].size(1) == op.channels &&
                        maps[m].scalar_type() == first.scalar_type() && maps[m].is_cuda() == first.is_cuda() &&
                        maps[m].get_device_index() == rois.rounded.get_device_index(),
                    name, ": all maps must be [N, C, H, W] with the same N, C, type and device, the rois' too");
    if (worth_turning(op, maps[m], m < levels ? o.scales[m] : o.semantic_scale)) maps[m] = channels_last(maps[m]);
    op.maps[m] = describe_map(maps[m], m < levels ? o.scales[m] : o.semantic_scale);
  }
  if (first.is_cpu()) check_images(op);
  return op;
}

Tensor pool_forward(const std::vector<Tensor>& features, const Tensor& rois_any, const PoolOptions& o,
                    const std::optional<Tensor>& semantic) {
  std::vector<Tensor> maps = features;
  STD_TORCH_CHECK(!maps.empty(), name_of(o), ": expected 1 to 8 levels, got none");
  if (semantic) maps.push_back(*semantic);
  const PoolRois rois = pool_rois(rois_any, o, maps[0].scalar_type());
  RoiAlign op = describe_pool(maps, semantic.has_value(), rois, o);
  const Tensor& first = maps[0];
  // Not a view of [K, h, w, C]: autograd lets nobody write to views that operators return.
  const std::array<int64_t, 4> shape{op.count, op.channels, o.out_h, o.out_w};
  Tensor out = torch::stable::empty(shape, first.scalar_type(), std::nullopt, first.device(), std::nullopt,
                                    torch::headeronly::MemoryFormat::ChannelsLast);
  op.out = out.mutable_data_ptr();
  if (first.is_cpu() && op.count * op.channels > 0) cpu::roi_align(op, torch_threads());
#ifdef HTC_CUDA
  if (first.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(first.get_device_index());
    cuda::roi_align(op, current_stream(first.get_device_index()));
  }
#endif
  return out;
}

std::vector<Tensor> pool_backward(const Tensor& grad, const Tensor& rois_any, const std::vector<int64_t>& sizes,
                                  const PoolOptions& o, bool has_semantic, bool atomic) {
  const char* name = name_of(o);
  STD_TORCH_CHECK(grad.dim() == 4, name, "_backward: grad must be [K, C, h, w]");
  const PoolRois rois = pool_rois(rois_any, o, grad.scalar_type());
  const int64_t maps = (static_cast<int64_t>(sizes.size()) - 1) / 2;
  RoiAlign op = describe(rois, o, sizes.at(0), grad.size(1), maps - has_semantic, has_semantic);
  STD_TORCH_CHECK(grad.size(0) == op.count, name, "_backward: grad is of ", grad.size(0), " RoIs, rois are ", op.count);
  op.dtype = dtype_of(grad);
  const Tensor dense = torch::stable::contiguous(channels_at_the_end(grad));
  op.out = const_cast<void*>(dense.const_data_ptr());
  // Gathering on CUDA rounds once, to the gradient's own type; everyone else adds up in float32.
  const bool gathers = grad.is_cuda() && !atomic;
  const ScalarType sum = op.dtype == DType::f64 ? ScalarType::Double : gathers ? grad.scalar_type() : ScalarType::Float;
  std::vector<Tensor> grads = gradients(op, grad, sizes, o, sum);
  if (grad.is_cpu()) {
    check_images(op);
    cpu::roi_align_backward(op, torch_threads());
  }
#ifdef HTC_CUDA
  if (grad.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
    const Stream stream = current_stream(grad.get_device_index());
    if (gathers) {
      Tensor workspace = torch::stable::new_empty(grad, {cuda::roi_align_workspace(op)}, ScalarType::Byte);
      cuda::roi_align_backward(op, workspace.mutable_data_ptr(), stream);
    } else {
      for (Tensor& one : grads) torch::stable::fill_(one, 0.0);
      cuda::roi_align_scatter(op, stream);
    }
  }
#endif
  for (Tensor& one : grads) one = channels_second(torch::stable::to(one, grad.scalar_type()));
  return grads;
}

namespace {

Tensor forward(const std::vector<Tensor>& features, const Tensor& rois, int64_t out_h, int64_t out_w,
               const std::vector<double>& scales, int64_t sampling_ratio, bool aligned, double finest_size,
               const std::optional<Tensor>& semantic, double semantic_scale, int64_t semantic_grid) {
  return pool_forward(
      features, rois,
      {out_h, out_w, scales, sampling_ratio, aligned, finest_size, semantic_scale, semantic_grid, false}, semantic);
}

// Not deterministic: with atomic additions, on CUDA; for comparison.
std::vector<Tensor> backward(const Tensor& grad, const Tensor& rois, const std::vector<int64_t>& sizes,
                             const std::vector<double>& scales, int64_t sampling_ratio, bool aligned,
                             double finest_size, bool has_semantic, double semantic_scale, int64_t semantic_grid,
                             bool deterministic) {
  STD_TORCH_CHECK(grad.dim() == 4, "roi_align_backward: grad must be [K, C, h, w]");
  return pool_backward(
      grad, rois, sizes,
      {grad.size(2), grad.size(3), scales, sampling_ratio, aligned, finest_size, semantic_scale, semantic_grid, false},
      has_semantic, !deterministic);
}

// On the CPU: sums, [N, C, H, W] channels-last and of the type that gradients are added up in, += what backward
// returns.
void add_backward(const std::vector<Tensor>& sums, const Tensor& grad, const Tensor& rois_any,
                  const std::vector<double>& scales, int64_t sampling_ratio, bool aligned, double finest_size,
                  bool has_semantic, double semantic_scale, int64_t semantic_grid) {
  const PoolOptions o{grad.size(2), grad.size(3),   scales,        sampling_ratio, aligned,
                      finest_size,  semantic_scale, semantic_grid, false};
  const PoolRois rois = pool_rois(rois_any, o, grad.scalar_type());
  const int64_t levels = static_cast<int64_t>(sums.size()) - has_semantic;
  STD_TORCH_CHECK(levels >= 1, "roi_align_backward: expected 1 to 8 levels, got none");
  RoiAlign op = describe(rois, o, sums[0].size(0), grad.size(1), levels, has_semantic);
  STD_TORCH_CHECK(grad.size(0) == op.count, "roi_align_backward: grad is of ", grad.size(0), " RoIs, rois are ",
                  op.count);
  op.dtype = dtype_of(grad);
  op.add = true;
  for (size_t m = 0; m < sums.size(); ++m) {
    STD_TORCH_CHECK(sums[m].stride(1) == 1 && sums[m].size(0) == op.images && sums[m].size(1) == op.channels &&
                        sums[m].scalar_type() == (op.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float),
                    "roi_align_backward: sums must be channels-last in float32 (float64), of the maps' N and C");
    op.maps[m] = describe_map(sums[m], static_cast<int64_t>(m) < levels ? scales[m] : semantic_scale);
  }
  const Tensor dense = torch::stable::contiguous(channels_at_the_end(grad));
  op.out = const_cast<void*>(dense.const_data_ptr());
  check_images(op);
  cpu::roi_align_backward(op, torch_threads());
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("multi_level_roi_align", TORCH_BOX(&htc::forward));
  m.impl("multi_level_roi_align_backward", TORCH_BOX(&htc::backward));
  m.impl("multi_level_roi_align_add_backward", TORCH_BOX(&htc::add_backward));
}
#ifdef HTC_CUDA
STABLE_TORCH_LIBRARY_IMPL(htc_fast, CUDA, m) {
  m.impl("multi_level_roi_align", TORCH_BOX(&htc::forward));
  m.impl("multi_level_roi_align_backward", TORCH_BOX(&htc::backward));
}
#endif
