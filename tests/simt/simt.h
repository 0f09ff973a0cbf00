// CUDA's execution model on one OS thread: every CUDA thread is a fiber, barriers and warp collectives switch fibers.
// A kernel file compiles against this header instead of cuda_runtime.h (csrc/cuda/launch.cuh chooses).
// What differs from a GPU: threads advance one at a time between synchronisation points, blocks run one after another
// (so a block must not wait for another one), and there is no memory model beyond what the race build checks.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ _Pragma("GCC error \"use HTC_SHARED(Type, name): the emulator gives every block its own\"")
#define SIMT_RAW __attribute__((noinline, no_sanitize_thread))  // not watched by the race build: an atomic access

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace simt {

struct Thread {
  dim3 index;
  unsigned linear, lane, warp;
};
extern Thread* current;
extern dim3 block_index, block_size, grid_size;

// What a block may have, declared and dynamic together; set before a launch.
extern size_t shared_limit;
// Runs a kernel to its end; throws std::runtime_error with one sentence on a deadlock or a misuse.
void run(const char* kernel, dim3 grid, dim3 block, size_t dynamic_shared, const std::function<void()>& body);
[[noreturn]] void fail(const std::string& why);
void block_barrier();
int block_barrier_count(bool predicate);
void warp_barrier(unsigned mask);
// Every lane of the mask gives a value and sees those of all (zero for lanes outside the mask).
const uint64_t* warp_exchange(unsigned mask, uint64_t value, const char* what);
void* block_shared(size_t bytes, size_t alignment);  // the same address for every thread of a block, poisoned
void* dynamic_shared();
void note_atomic(const void* address, size_t bytes);  // for the race build

// While launches are counted, a kernel or a memset is only written down: whether this one was.
extern bool counting;
bool written_down(const char* launch);

// Seed 0 runs threads and blocks in order; every other seed is one shuffled order. Set from SIMT_SEED or by a test.
extern uint64_t seed;

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T, class F>
SIMT_RAW T atomic(T* address, F change) {
  note_atomic(address, sizeof(T));
  const T old = *address;
  *address = change(old);
  return old;
}

}  // namespace simt

#define threadIdx (simt::current->index)
#define blockIdx simt::block_index
#define blockDim simt::block_size
#define gridDim simt::grid_size
constexpr int warpSize = 32;

inline void __syncthreads() { simt::block_barrier(); }
inline int __syncthreads_count(int p) { return simt::block_barrier_count(p != 0); }
inline int __syncthreads_or(int p) { return simt::block_barrier_count(p != 0) > 0; }
inline int __syncthreads_and(int p) { return simt::block_barrier_count(p == 0) == 0; }
inline void __syncwarp(unsigned mask = ~0u) { simt::warp_barrier(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const uint64_t* all = simt::warp_exchange(mask, simt::to_bits(value), "__shfl_sync");
  const int lane = static_cast<int>(simt::current->lane);
  return simt::from_bits<T>(all[(lane & ~(width - 1)) | (source & (width - 1))]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
  const uint64_t* all = simt::warp_exchange(mask, simt::to_bits(value), "__shfl_xor_sync");
  const int lane = static_cast<int>(simt::current->lane), source = lane ^ flip;
  return simt::from_bits<T>(all[source / width <= lane / width ? source : lane]);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const uint64_t* all = simt::warp_exchange(mask, simt::to_bits(value), "__shfl_up_sync");
  const int lane = static_cast<int>(simt::current->lane), source = lane - static_cast<int>(delta);
  return simt::from_bits<T>(all[source >= (lane & ~(width - 1)) ? source : lane]);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const uint64_t* all = simt::warp_exchange(mask, simt::to_bits(value), "__shfl_down_sync");
  const int lane = static_cast<int>(simt::current->lane), source = lane + static_cast<int>(delta);
  return simt::from_bits<T>(all[source < (lane & ~(width - 1)) + width ? source : lane]);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* all = simt::warp_exchange(mask, predicate != 0, "__ballot_sync");
  unsigned bits = 0;
  for (int i = 0; i < 32; i++) bits |= static_cast<unsigned>(all[i]) << i;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  const uint64_t* all = simt::warp_exchange(mask, simt::to_bits(value), "__match_any_sync");
  unsigned bits = 0;
  for (int i = 0; i < 32; i++) bits |= static_cast<unsigned>((mask >> i & 1) && all[i] == simt::to_bits(value)) << i;
  return bits;
}
template <class T, class F>
T simt_reduce(unsigned mask, T value, F combine, const char* what) {
  const uint64_t* all = simt::warp_exchange(mask, simt::to_bits(value), what);
  bool first = true;
  T result{};
  for (int i = 0; i < 32; i++)
    if (mask >> i & 1) {
      result = first ? simt::from_bits<T>(all[i]) : combine(result, simt::from_bits<T>(all[i]));
      first = false;
    }
  return result;
}
template <class T>
T __reduce_add_sync(unsigned mask, T value) {
  return simt_reduce(mask, value, [](T a, T b) { return static_cast<T>(a + b); }, "__reduce_add_sync");
}
template <class T>
T __reduce_min_sync(unsigned mask, T value) {
  return simt_reduce(mask, value, [](T a, T b) { return std::min(a, b); }, "__reduce_min_sync");
}
template <class T>
T __reduce_max_sync(unsigned mask, T value) {
  return simt_reduce(mask, value, [](T a, T b) { return std::max(a, b); }, "__reduce_max_sync");
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return simt_reduce(mask, value, [](unsigned a, unsigned b) { return a | b; }, "__reduce_or_sync");
}
inline unsigned __activemask() { return 1u << simt::current->lane; }  // honest: no two lanes run together here

template <class T>
T atomicAdd(T* p, T v) {
  return simt::atomic(p, [=](T o) { return static_cast<T>(o + v); });
}
template <class T>
T atomicMax(T* p, T v) {
  return simt::atomic(p, [=](T o) { return std::max(o, v); });
}
template <class T>
T atomicMin(T* p, T v) {
  return simt::atomic(p, [=](T o) { return std::min(o, v); });
}
template <class T>
T atomicOr(T* p, T v) {
  return simt::atomic(p, [=](T o) { return static_cast<T>(o | v); });
}
template <class T>
T atomicAnd(T* p, T v) {
  return simt::atomic(p, [=](T o) { return static_cast<T>(o & v); });
}
template <class T>
T atomicExch(T* p, T v) {
  return simt::atomic(p, [=](T) { return v; });
}
template <class T>
T atomicCAS(T* p, T expected, T v) {
  return simt::atomic(p, [=](T o) { return o == expected ? v : o; });
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline int __clzll(long long v) { return v == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(v)); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline unsigned __float_as_uint(float v) { return simt::from_bits<unsigned>(simt::to_bits(v)); }
inline int __float_as_int(float v) { return simt::from_bits<int>(simt::to_bits(v)); }
inline float __uint_as_float(unsigned v) { return simt::from_bits<float>(v); }
inline float __int_as_float(int v) { return simt::from_bits<float>(simt::to_bits(v)); }
inline float __fmul_rn(float a, float b) {
  volatile float r = a * b;
  return r;
}
inline float __fadd_rn(float a, float b) {
  volatile float r = a + b;
  return r;
}
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float v) { return std::exp(v); }
inline float __logf(float v) { return std::log(v); }
inline float __log2f(float v) { return std::log2(v); }
inline float __saturatef(float v) { return std::min(std::max(v, 0.0f), 1.0f); }
inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
using std::max;
using std::min;
