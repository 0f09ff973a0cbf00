// resampled_sum: adapter. What semantic_merge does on the CPU after its products.
#include "torch/common.h"

namespace htc {
namespace {

Tensor rows_of(const Tensor& maps) { return torch::stable::contiguous(channels_at_the_end(maps)); }

ResampledSum sum_into(const Tensor& out, int64_t levels) {
  STD_TORCH_CHECK(levels >= 1 && levels <= 8, "resampled_sum: expected 1 to 8 maps");
  ResampledSum op{};
  op.dtype = dtype_of(out);
  STD_TORCH_CHECK(op.dtype != DType::f64, "resampled_sum: float64 is not supported");
  op.levels = static_cast<int>(levels);
  op.images = out.size(0);
  op.height = out.size(1);
  op.width = out.size(2);
  op.channels = out.size(3);
  op.out = const_cast<void*>(out.const_data_ptr());
  return op;
}

void set_level(ResampledSum& op, size_t l, const Tensor& rows) {
  STD_TORCH_CHECK(rows.is_cpu() && dtype_of(rows) == op.dtype && rows.size(0) == op.images && rows.size(1) > 0 &&
                      rows.size(2) > 0 && rows.size(3) == op.channels,
                  "resampled_sum: maps must be [N, C, H_l, W_l] on the CPU, all of one type, none empty");
  op.maps[l] = const_cast<void*>(rows.const_data_ptr());
  op.heights[l] = rows.size(1);
  op.widths[l] = rows.size(2);
}

std::tuple<Tensor, Tensor> resampled_sum(const std::vector<Tensor>& maps, int64_t height, int64_t width, bool relu,
                                         bool keep) {
  STD_TORCH_CHECK(!maps.empty() && maps[0].dim() == 4 && height >= 0 && width >= 0,
                  "resampled_sum: expected maps [N, C, H_l, W_l] and a size");
  Tensor out = torch::stable::new_empty(maps[0], {maps[0].size(0), height, width, maps[0].size(1)});
  advise_huge_pages(out, element_size(dtype_of(out)));
  ResampledSum op = sum_into(out, static_cast<int64_t>(maps.size()));
  std::vector<Tensor> rows;
  for (const Tensor& one : maps) {
    rows.push_back(rows_of(one));
    set_level(op, rows.size() - 1, rows.back());
  }
  const std::vector<int64_t> kept{op.images, keep ? height : 0, width, op.channels};
  Tensor open = torch::stable::new_empty(out, kept, ScalarType::Byte);
  advise_huge_pages(open, 1);
  op.relu = relu;
  op.open = keep ? static_cast<uint8_t*>(open.mutable_data_ptr()) : nullptr;
  if (out.numel() > 0) cpu::resampled_sum(op, torch_threads());
  return {channels_second(out), channels_second(open)};
}

std::vector<Tensor> resampled_sum_backward(const Tensor& grad_any, const Tensor& open_any, std::vector<int64_t> heights,
                                           std::vector<int64_t> widths) {
  const Tensor grad = rows_of(grad_any), open = rows_of(open_any);
  STD_TORCH_CHECK(heights.size() == widths.size() && (open.numel() == 0 || open.numel() == grad.numel()),
                  "resampled_sum: sizes or kept bits do not fit the gradient");
  ResampledSum op = sum_into(grad, static_cast<int64_t>(heights.size()));
  std::vector<Tensor> found;
  for (size_t l = 0; l < heights.size(); ++l) {
    Tensor one = torch::stable::new_empty(grad, {op.images, heights[l], widths[l], op.channels});
    advise_huge_pages(one, element_size(op.dtype));
    set_level(op, l, one);
    found.push_back(channels_second(one));
  }
  op.open = open.numel() > 0 ? static_cast<uint8_t*>(const_cast<void*>(open.const_data_ptr())) : nullptr;
  if (op.images > 0 && op.channels > 0) cpu::resampled_sum_backward(op, torch_threads());
  return found;
}

}  // namespace
}  // namespace htc

STABLE_TORCH_LIBRARY_IMPL(htc_fast, CPU, m) {
  m.impl("resampled_sum", TORCH_BOX(&htc::resampled_sum));
  m.impl("resampled_sum_backward", TORCH_BOX(&htc::resampled_sum_backward));
}
