// What the adapters of refine and detections share: boxes, and the numbers that move them.
#pragma once
#include "torch/common.h"

namespace htc {

// As it is in 16 bits and in float32, in whatever strides; float32 from others.
inline Tensor readable(const Tensor& any) {
  return any.scalar_type() == ScalarType::Double ? torch::stable::to(any, ScalarType::Float) : any;
}

inline Rows describe_rows(const Tensor& rows) {
  return {dtype_of(rows), rows.const_data_ptr(), rows.stride(0), rows.stride(1), rows.stride(2)};
}

// The tensors behind a BoxMoves, which borrows from them.
struct MoveTensors {
  Tensor boxes, deltas, image_sizes;

  MoveTensors(const Tensor& boxes_, const Tensor& deltas_, const Tensor& sizes)
      : boxes(float_rows(boxes_)),
        deltas(readable(deltas_)),
        image_sizes(torch::stable::contiguous(torch::stable::to(sizes, ScalarType::Long))) {}
};

inline BoxMoves describe_moves(const MoveTensors& tensors, const std::vector<double>& std, int64_t classes) {
  const Tensor& boxes = tensors.boxes;
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, "boxes must be [N, R, 4]");
  STD_TORCH_CHECK(tensors.deltas.dim() == 3 && tensors.deltas.size(0) == boxes.size(0) &&
                      tensors.deltas.size(1) == boxes.size(1) &&
                      (tensors.deltas.size(2) == 4 || tensors.deltas.size(2) == 4 * classes),
                  "deltas must be [N, R, 4] or [N, R, 4 * classes]");
  STD_TORCH_CHECK(tensors.image_sizes.numel() == 2 * boxes.size(0) && std.size() == 4,
                  "image_sizes must be [N, 2], std four numbers");
  BoxMoves moves{};
  moves.images = boxes.size(0);
  moves.rows = boxes.size(1);
  moves.boxes = static_cast<const float*>(boxes.const_data_ptr());
  moves.deltas = describe_rows(tensors.deltas);
  moves.by_class = tensors.deltas.size(2) > 4;
  for (size_t i = 0; i < 4; ++i) moves.std[i] = static_cast<float>(std[i]);
  moves.image_sizes = static_cast<const int64_t*>(tensors.image_sizes.const_data_ptr());
  return moves;
}

}  // namespace htc
