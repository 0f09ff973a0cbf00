// Rows of logits and deltas as floats, boxes moved by them, and what the lanes of a warp agree on.
#pragma once
#include "cuda/half.cuh"
#include "geometry.h"

namespace htc::cuda {
namespace {

__device__ __forceinline__ float load(const Rows& rows, int64_t at) {
  switch (rows.dtype) {
    case DType::f16: return to_float(static_cast<const f16*>(rows.data)[at]);
    case DType::bf16: return to_float(static_cast<const bf16*>(rows.data)[at]);
    default: return static_cast<const float*>(rows.data)[at];
  }
}

__device__ __forceinline__ int64_t start_of(const Rows& rows, int image, int row) {
  return image * rows.stride_n + row * rows.stride_r;
}

// The box of a row, moved as class `label` wants it (0 where all classes want the same) and clipped.
__device__ __forceinline__ Box moved_box(const BoxMoves& moves, int image, int row, int label) {
  const int64_t at = start_of(moves.deltas, image, row) + 4 * label * moves.deltas.stride_c;
  float d[4];
#pragma unroll
  for (int i = 0; i < 4; i++) d[i] = load(moves.deltas, at + i * moves.deltas.stride_c) * moves.std[i];
  const float4 b = reinterpret_cast<const float4*>(moves.boxes)[image * moves.rows + row];
  const Box box = decode_box({b.x, b.y, b.z, b.w}, d[0], d[1], d[2], d[3]);
  const int64_t* size = moves.image_sizes + 2 * image;
  return clip_box(box, static_cast<float>(size[0]), static_cast<float>(size[1]));
}

__device__ __forceinline__ void store_box(float* address, const Box& box) {
  *reinterpret_cast<float4*>(address) = make_float4(box.x1, box.y1, box.x2, box.y2);
}

}  // namespace
}  // namespace htc::cuda
