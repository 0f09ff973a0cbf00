// One vector of floats of this instruction set, and how the element types become one.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace htc::cpu::HTC_INSTRUCTION_SET {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
constexpr int kRegisters = 16;  // accumulators that leave room for operands
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kRegisters = 8;
#elif defined(__aarch64__)
constexpr int kWidth = 4;
constexpr int kRegisters = 16;
#else
constexpr int kWidth = 4;
constexpr int kRegisters = 8;
#endif

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef float Unaligned __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(kWidth * 4)));
typedef uint16_t Halves __attribute__((vector_size(kWidth * 2)));
typedef uint8_t Bytes __attribute__((vector_size(kWidth), aligned(1), may_alias));
typedef uint16_t UnalignedHalves __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

// What sums over elements of this type are kept in.
template <class T>
using SumOf = std::conditional_t<sizeof(T) == 8, double, float>;

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline float to_float(f16 x) {
  const uint32_t sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  uint32_t bits = (rest << 13) + (112u << 23);
  if (rest >= 0x7c00u) bits += 112u << 23;
  float out;
  std::memcpy(&out, &bits, 4);
  if (rest < 0x0400u) out = static_cast<float>(rest) * 0x1p-24f;
  std::memcpy(&bits, &out, 4);
  bits |= sign;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline void from_float(float x, float* out) { *out = x; }
inline void from_float(float x, bf16* out) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    out->bits = 0x7fc0;
    return;
  }
  out->bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline void from_float(float x, f16* out) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits >= 0x7f800000u) {
    out->bits = sign | (bits > 0x7f800000u ? 0x7e00u : 0x7c00u);
  } else if (bits >= 0x477ff000u) {
    out->bits = sign | 0x7c00u;
  } else if (bits < 0x38800000u) {
    // Subnormal: adding one half leaves the rounded value in the low bits.
    float value;
    std::memcpy(&value, &bits, 4);
    value += 0.5f;
    std::memcpy(&bits, &value, 4);
    out->bits = sign | static_cast<uint16_t>(bits - 0x3f000000u);
  } else {
    out->bits = sign | static_cast<uint16_t>((bits - (112u << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13);
  }
}

inline Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline Vec load(const bf16* p) {
  const Halves halves = *reinterpret_cast<const UnalignedHalves*>(p);
  return reinterpret_cast<Vec>(__builtin_convertvector(halves, Bits) << 16);
}
inline Vec load(const f16* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
  return reinterpret_cast<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__aarch64__)
  return reinterpret_cast<Vec>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits))));
#else
  Vec out;
  for (int i = 0; i < kWidth; ++i) out[i] = to_float(p[i]);
  return out;
#endif
}
inline void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
template <class T>
inline void store(T* p, Vec v) {
  for (int i = 0; i < kWidth; ++i) from_float(v[i], p + i);
}
// As from_float rounds, all at once: the loop above stays one.
inline void store(bf16* p, Vec v) {
  const Bits bits = reinterpret_cast<Bits>(v), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Bits nan = reinterpret_cast<Bits>((bits & 0x7fffffffu) > 0x7f800000u);
  *reinterpret_cast<UnalignedHalves*>(p) = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0u), Halves);
}
#if defined(__AVX512F__)
inline void store(f16* p, Vec v) {
  const __m256i halves = _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
}
#elif defined(__F16C__)
inline void store(f16* p, Vec v) {
  const __m128i halves = _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves);
}
#elif defined(__aarch64__)
inline void store(f16* p, Vec v) {
  vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(reinterpret_cast<float32x4_t>(v))));
}
#endif

// Numbers of at most 8 bits.
inline void store_bytes(uint8_t* p, Bits bits) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(bits)));
#else
  *reinterpret_cast<Bytes*>(p) = __builtin_convertvector(bits, Bytes);
#endif
}

// One value in every place.
inline Vec spread(float value) { return value - Vec{}; }

// a * b + c, fused where the instruction set has it.
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(
      _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__FMA__)
  return reinterpret_cast<Vec>(
      _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#elif defined(__aarch64__)
  return reinterpret_cast<Vec>(
      vfmaq_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a), reinterpret_cast<float32x4_t>(b)));
#else
  return a * b + c;
#endif
}
inline Vec fma(Vec a, float b, Vec c) { return fma(a, spread(b), c); }

#if defined(__AVX512F__)
inline Vec larger(Vec a, Vec b) {
  return reinterpret_cast<Vec>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
inline Vec smaller(Vec a, Vec b) {
  return reinterpret_cast<Vec>(_mm512_min_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
inline bool any_above(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), _CMP_GT_OQ) != 0;
}
#elif defined(__AVX2__)
inline Vec larger(Vec a, Vec b) {
  return reinterpret_cast<Vec>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
inline Vec smaller(Vec a, Vec b) {
  return reinterpret_cast<Vec>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
inline bool any_above(Vec a, Vec b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), _CMP_GT_OQ)) != 0;
}
#else
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }
inline bool any_above(Vec a, Vec b) {
#if defined(__aarch64__)
  return vmaxvq_u32(vcgtq_f32(reinterpret_cast<float32x4_t>(a), reinterpret_cast<float32x4_t>(b))) != 0;
#else
  const auto mask = a > b;
  int any = 0;
  for (int i = 0; i < kWidth; ++i) any |= mask[i];
  return any != 0;
#endif
}
#endif

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
