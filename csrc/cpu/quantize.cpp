// Floats to 8 bits in one pass.
#include <algorithm>

#include "cpu/simd.h"
#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

constexpr int64_t kGrain = 1 << 15;
constexpr float kWhole = 0x1p23f;  // from here on floats are whole numbers, whose last bits are the number

inline void store(uint8_t* to, Vec value) {
  const Vec zero = {};
  const Vec inside = smaller(larger(value, zero), spread(255.0f));  // in this order NaN does not stay
  store_bytes(to, reinterpret_cast<Bits>(inside + kWhole) & 255u);
}

template <class T>
void quantize_all(const Quantize& op, const Parallel& parallel) {
  const T* x = static_cast<const T*>(op.x);
  const Vec steps = spread(1.0f / op.step), zero = spread(static_cast<float>(op.zero));
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
