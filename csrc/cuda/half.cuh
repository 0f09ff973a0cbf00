// Element types of feature maps: stored in 4 or 2 bytes, loaded and stored 16 bytes at a time, computed in fp32.
#pragma once
#include "cuda/launch.cuh"
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace htc::cuda {

struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

#if defined(__CUDACC__)

__device__ __forceinline__ float2 unpack(f16, uint32_t pair) {
  return __half22float2(*reinterpret_cast<__half2*>(&pair));
}
__device__ __forceinline__ uint32_t pack(f16, float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ uint32_t pack(bf16, float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

#else  // the same, bit by bit

inline float half_to_float(uint32_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
  const float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                    : std::ldexp(static_cast<float>(mantissa | 1024), static_cast<int>(exponent) - 25);
  return sign ? -value : value;
}
inline uint32_t float_to_half(float value) {
  const uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u;
  const float size = std::fabs(value);
  if (size != size) return sign | 0x7e00u;
  if (size >= 65520.0f) return sign | 0x7c00u;
  int exponent = 0;
  std::frexp(size, &exponent);
  if (size < 0x1p-14f) exponent = -13;  // subnormals share the smallest exponent
  // nearbyint rounds ties to even; a carry out of the mantissa moves on into the exponent by itself.
  const auto mantissa = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 11 - exponent)));
  return sign | (static_cast<uint32_t>(exponent + 13) * 1024 + mantissa);
}
inline uint32_t float_to_bf16(float value) {
  const uint32_t bits = __float_as_uint(value);
  return value != value ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
inline float2 unpack(f16, uint32_t pair) { return {half_to_float(pair & 0xffff), half_to_float(pair >> 16)}; }
inline uint32_t pack(f16, float low, float high) { return float_to_half(low) | float_to_half(high) << 16; }
inline uint32_t pack(bf16, float low, float high) { return float_to_bf16(low) | float_to_bf16(high) << 16; }

#endif

// A bf16 is the upper half of a float.
__device__ __forceinline__ float2 unpack(bf16, uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(f16 value) { return unpack(value, value.bits).x; }
__device__ __forceinline__ float to_float(bf16 value) { return unpack(value, value.bits).x; }
template <class T>
__device__ __forceinline__ T from_float(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return T{static_cast<uint16_t>(pack(T{}, value, 0.0f) & 0xffffu)};
  }
}

// How many elements one 128-bit access moves.
template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

// V neighbouring elements as they lie in memory: one, or a 16-byte vector.
template <class T, int V>
using Vector = std::conditional_t<V == 1, T, uint4>;

// Through the read-only path; vectors must be 16-byte aligned.
template <class T, int V>
__device__ __forceinline__ Vector<T, V> load_elements(const T* address) {
  if constexpr (V == 1) {
    return *address;
  } else {
    static_assert(V == kVector<T>);
    return __ldg(reinterpret_cast<const uint4*>(address));
  }
}

template <class T>
__device__ __forceinline__ void unpack_elements(T raw, float (&out)[1]) {
  out[0] = to_float(raw);
}
__device__ __forceinline__ void unpack_elements(uint4 raw, float (&out)[4]) {
  out[0] = __uint_as_float(raw.x);
  out[1] = __uint_as_float(raw.y);
  out[2] = __uint_as_float(raw.z);
  out[3] = __uint_as_float(raw.w);
}
template <class T>
__device__ __forceinline__ void unpack_elements(T type, uint4 raw, float (&out)[8]) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 two = unpack(type, words[i]);
    out[2 * i] = two.x;
    out[2 * i + 1] = two.y;
  }
}

template <class T, int V>
__device__ __forceinline__ void load_floats(const Vector<T, V>& raw, float (&out)[V]) {
  if constexpr (V == 8) {
    unpack_elements(T{}, raw, out);
  } else {
    unpack_elements(raw, out);
  }
}

// sum += weight * value, for every element
template <class T, int V>
__device__ __forceinline__ void multiply_add(float weight, const Vector<T, V>& raw, float (&sum)[V]) {
  float value[V];
  load_floats<T, V>(raw, value);
#pragma unroll
  for (int i = 0; i < V; i++) sum[i] = fmaf(weight, value[i], sum[i]);
}

template <class T, int V>
__device__ __forceinline__ void store_elements(T* address, const float (&in)[V]) {
  if constexpr (V == 1) {
    *address = from_float<T>(in[0]);
  } else if constexpr (V == 4) {
    *reinterpret_cast<float4*>(address) = make_float4(in[0], in[1], in[2], in[3]);
  } else {
    *reinterpret_cast<uint4*>(address) =
        make_uint4(pack(T{}, in[0], in[1]), pack(T{}, in[2], in[3]), pack(T{}, in[4], in[5]), pack(T{}, in[6], in[7]));
  }
}

}  // namespace htc::cuda
