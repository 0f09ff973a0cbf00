// What the adapters of multi_level_roi_align and pr_roi_pool share: both pool RoIs, with other weights.
#pragma once
#include "torch/common.h"

namespace htc {

struct PoolOptions {
  int64_t out_h, out_w;
  std::vector<double> scales;
  int64_t sampling_ratio;
  bool aligned;
  double finest_size;
  double semantic_scale;
  int64_t semantic_grid;
  bool precise;
};

// The RoIs in float32; where precise maps are float64, unrounded too.
struct PoolRois {
  Tensor rounded;
  std::optional<Tensor> exact;
};
PoolRois pool_rois(const Tensor& rois, const PoolOptions&, ScalarType maps);

// Checks the maps and describes the operation but for `out`; maps may be turned first, hence not const.
RoiAlign describe_pool(std::vector<Tensor>& maps, bool has_semantic, const PoolRois&, const PoolOptions&);

Tensor pool_forward(const std::vector<Tensor>& features, const Tensor& rois, const PoolOptions&,
                    const std::optional<Tensor>& semantic);

// sizes: N, then height and width of every level and, last, of the semantic map. atomic: on CUDA, additions in any
// order.
std::vector<Tensor> pool_backward(const Tensor& grad, const Tensor& rois, const std::vector<int64_t>& sizes,
                                  const PoolOptions&, bool has_semantic, bool atomic);

}  // namespace htc
