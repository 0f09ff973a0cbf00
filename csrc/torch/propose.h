// What propose's adapters share: the maps and options as the kernels take them.
#pragma once
#include "torch/common.h"

namespace htc {

inline FeatureMap feature_map(const Tensor& map) {
  return {const_cast<void*>(map.const_data_ptr()),
          map.size(2),
          map.size(3),
          0.0f,
          map.stride(0),
          map.stride(1),
          map.stride(2),
          map.stride(3)};
}

struct ProposeInputs {
  std::vector<Tensor> objectness, deltas;
  Tensor image_sizes;
  const std::vector<double>&anchors, &strides;
  int64_t per_level, limit;
  double iou_threshold, min_size;
  const std::vector<double>& delta_std;
};

// Float64 maps go into float32, and image sizes into what kernels read: `in` owns what the result points to.
inline Propose describe_propose(ProposeInputs& in) {
  Propose op{};
  op.levels = static_cast<int>(in.objectness.size());
  STD_TORCH_CHECK(op.levels >= 1 && op.levels <= kProposalLevels && in.deltas.size() == in.objectness.size() &&
                      in.strides.size() == 2 * in.objectness.size() && in.delta_std.size() == 4 &&
                      in.anchors.size() <= 4 * kProposalAnchors,
                  "propose: expected 1 to 8 levels, two strides for each, and at most 128 anchors");
  if (in.objectness[0].scalar_type() == ScalarType::Double)
    for (auto* maps : {&in.objectness, &in.deltas})
      for (Tensor& map : *maps) map = torch::stable::to(map, ScalarType::Float);
  op.dtype = dtype_of(in.objectness[0]);
  int64_t anchor = 0;
  for (size_t l = 0; l < in.objectness.size(); ++l) {
    const Tensor& map = in.objectness[l];
    STD_TORCH_CHECK(map.size(1) * map.size(2) * map.size(3) < (int64_t{1} << 31) - 4096,
                    "propose: a level must have fewer than 2^31 - 4096 anchors");
    op.level[l] = {feature_map(map),
                   feature_map(in.deltas[l]),
                   map.size(1),
                   anchor,
                   static_cast<float>(in.strides[2 * l]),
                   static_cast<float>(in.strides[2 * l + 1])};
    anchor += map.size(1);
  }
  STD_TORCH_CHECK(static_cast<int64_t>(in.anchors.size()) == 4 * anchor, "propose: expected 4 numbers for each anchor");
  for (size_t i = 0; i < in.anchors.size(); ++i) op.anchors[i / 4][i % 4] = static_cast<float>(in.anchors[i]);
  for (size_t i = 0; i < 4; ++i) op.delta_std[i] = static_cast<float>(in.delta_std[i]);
  op.images = in.objectness[0].size(0);
  op.whole_sizes = in.image_sizes.scalar_type() == ScalarType::Long;
  if (!op.whole_sizes) in.image_sizes = torch::stable::to(in.image_sizes, ScalarType::Float);
  in.image_sizes = torch::stable::contiguous(in.image_sizes);
  op.image_sizes = in.image_sizes.const_data_ptr();
  op.per_level = in.per_level;
  op.limit = in.limit;
  op.iou_threshold = in.iou_threshold;
  op.min_size = static_cast<float>(in.min_size);
  return op;
}

struct Proposals {
  Tensor boxes, scores, valid;
};
inline Proposals room_for(Propose& op, const Tensor& like) {
  Proposals out{torch::stable::new_empty(like, {op.images, op.limit, 4}, ScalarType::Float),
                torch::stable::new_empty(like, {op.images, op.limit}, ScalarType::Float),
                torch::stable::new_empty(like, {op.images, op.limit}, ScalarType::Bool)};
  op.boxes = static_cast<float*>(out.boxes.mutable_data_ptr());
  op.scores = static_cast<float*>(out.scores.mutable_data_ptr());
  op.valid = static_cast<bool*>(out.valid.mutable_data_ptr());
  return out;
}

}  // namespace htc
