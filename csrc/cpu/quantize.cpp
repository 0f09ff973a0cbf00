// Floats to 8 bits in one pass.
#include "quantize.h"

#include <algorithm>

#include "cpu/simd.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

typedef uint8_t Bytes __attribute__((vector_size(kWidth), aligned(1), may_alias));

constexpr int64_t kGrain = 1 << 15;
constexpr float kWhole = 0x1p23f;  // from here on floats are whole numbers, whose last bits are the number

inline void store(uint8_t* to, Vec value) {
  const Vec zero = {};
  const Vec inside = smaller(larger(value, zero), 255.0f - zero);  // in this order NaN does not stay
  const Bits bits = reinterpret_cast<Bits>(inside + kWhole) & 255u;
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(bits)));
#else
  *reinterpret_cast<Bytes*>(to) = __builtin_convertvector(bits, Bytes);
#endif
}

template <class T>
void quantize_all(const Quantize& op, const Parallel& parallel) {
  const T* x = static_cast<const T*>(op.x);
  const Vec steps = 1.0f / op.step - Vec{}, zero = static_cast<float>(op.zero) - Vec{};
  parallel(op.count, kGrain, [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + kWidth <= end; i += kWidth) store(op.out + i, fma(load(x + i), steps, zero));
    if (i == end) return;
    T last[kWidth] = {};
    uint8_t made[kWidth];
    std::copy_n(x + i, end - i, last);
    store(made, fma(load(last), steps, zero));
    std::copy_n(made, end - i, op.out + i);
  });
}

}  // namespace

void quantize(const Quantize& op, const Parallel& parallel) {
  switch (op.dtype) {
    case DType::bf16: return quantize_all<bf16>(op, parallel);
    case DType::f16: return quantize_all<f16>(op, parallel);
    default: return quantize_all<float>(op, parallel);
  }
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
