// Rows of logits and deltas as floats, and boxes moved by them.
#pragma once
#include <vector>

#include "cpu/simd.h"
#include "geometry.h"
#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

template <class T>
inline void read_elements(const T* from, int64_t step, int64_t count, float* out) {
  int64_t i = 0;
  if (step == 1)
    for (; i + kWidth <= count; i += kWidth) store(out + i, load(from + i));
  for (; i < count; ++i) out[i] = to_float(from[i * step]);
}

// `count` numbers of a row, from column `first` on.
inline void read_row(const Rows& rows, int64_t image, int64_t row, int64_t first, int64_t count, float* out) {
  const int64_t at = image * rows.stride_n + row * rows.stride_r + first * rows.stride_c;
  switch (rows.dtype) {
    case DType::f16: return read_elements(static_cast<const f16*>(rows.data) + at, rows.stride_c, count, out);
    case DType::bf16: return read_elements(static_cast<const bf16*>(rows.data) + at, rows.stride_c, count, out);
    default: return read_elements(static_cast<const float*>(rows.data) + at, rows.stride_c, count, out);
  }
}

// The box of a row, moved as class `label` wants it (0 where all classes want the same) and clipped.
inline Box moved_box(const BoxMoves& moves, int64_t image, int64_t row, int64_t label) {
  float d[4];
  read_row(moves.deltas, image, row, 4 * label, 4, d);
  const float* b = moves.boxes + 4 * (image * moves.rows + row);
  const float* std = moves.std;
  const Box box = decode_box({b[0], b[1], b[2], b[3]}, d[0] * std[0], d[1] * std[1], d[2] * std[2], d[3] * std[3]);
  const int64_t* size = moves.image_sizes + 2 * image;
  return clip_box(box, static_cast<float>(size[0]), static_cast<float>(size[1]));
}

// geometry.h's exponential of a vector: the same operations, and with them the same bits.
inline Vec exponential(Vec x) {
  typedef int32_t Ints __attribute__((vector_size(kWidth * 4)));
  const Vec zero = {};
  const Vec least = -87.3f - zero, most = 88.72f - zero;
  const Vec inside = x < least ? least : x > most ? most : x;
  const Vec at = inside * 1.44269504f + 0.5f;
  const Vec whole = __builtin_convertvector(__builtin_convertvector(at, Ints), Vec);  // rounded towards 0
  const Vec power = whole > at ? whole - 1.0f : whole;
  const Vec rest = inside - power * 0.693359375f + power * 2.12194440e-4f;
  Vec sum = 1.9875691e-4f - zero;
  sum = sum * rest + 1.3981999e-3f;
  sum = sum * rest + 8.3334519e-3f;
  sum = sum * rest + 4.1665796e-2f;
  sum = sum * rest + 1.6666665e-1f;
  sum = sum * rest + 5.0000001e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  const Ints all = __builtin_convertvector(power, Ints);
  const Ints half = all / 2;
  const Vec low = reinterpret_cast<Vec>((half + 127) << 23), high = reinterpret_cast<Vec>((all - half + 127) << 23);
  return x < least ? zero : x > most ? INFINITY - zero : sum * low * high;
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
