// Rows of logits and deltas as floats, boxes moved by them, and what the lanes of a warp agree on.
#pragma once
#include "cuda/half.cuh"
#include "geometry.h"

namespace htc::cuda {
namespace {

// Four numbers, `apart` from each other, of those whose bits are set in `wanted`: all are asked for before the first is
// looked at.
template <class T>
__device__ __forceinline__ void load_four(const Rows& rows, int64_t at, int64_t apart, unsigned wanted,
                                          float (&found)[4]) {
  const T* numbers = static_cast<const T*>(rows.data) + at;
#pragma unroll
  for (int i = 0; i < 4; i++) found[i] = wanted >> i & 1 ? to_float(numbers[i * apart]) : 0.0f;
}
__device__ __forceinline__ void load_four(const Rows& rows, int64_t at, int64_t apart, unsigned wanted,
                                          float (&found)[4]) {
  switch (rows.dtype) {
    case DType::f16: return load_four<f16>(rows, at, apart, wanted, found);
    case DType::bf16: return load_four<bf16>(rows, at, apart, wanted, found);
    default: return load_four<float>(rows, at, apart, wanted, found);
  }
}

__device__ __forceinline__ int64_t start_of(const Rows& rows, int image, int row) {
  return image * rows.stride_n + row * rows.stride_r;
}

// What a row's box is before it is moved: to be asked for before its class is known.
struct Start {
  Box box;
  float height, width;  // of the image
};
__device__ __forceinline__ Start start_box(const BoxMoves& moves, int image, int row) {
  const float4 b = reinterpret_cast<const float4*>(moves.boxes)[image * moves.rows + row];
  const int64_t* size = moves.image_sizes + 2 * image;
  return {{b.x, b.y, b.z, b.w}, static_cast<float>(size[0]), static_cast<float>(size[1])};
}

// The box of a row, moved as class `label` wants it (0 where all classes want the same) and clipped.
__device__ __forceinline__ Box moved_box(const BoxMoves& moves, const Start& start, int image, int row, int label) {
  const int64_t at = start_of(moves.deltas, image, row) + 4 * label * moves.deltas.stride_c;
  float d[4];
  load_four(moves.deltas, at, moves.deltas.stride_c, 15, d);
#pragma unroll
  for (int i = 0; i < 4; i++) d[i] *= moves.std[i];
  return clip_box(decode_box(start.box, d[0], d[1], d[2], d[3]), start.height, start.width);
}
__device__ __forceinline__ Box moved_box(const BoxMoves& moves, int image, int row, int label) {
  return moved_box(moves, start_box(moves, image, row), image, row, label);
}

__device__ __forceinline__ void store_box(float* address, const Box& box) {
  *reinterpret_cast<float4*>(address) = make_float4(box.x1, box.y1, box.x2, box.y2);
}

}  // namespace
}  // namespace htc::cuda
