// How every CUDA file meets its compiler: nvcc, or a C++ compiler with the emulator of tests/simt.
// Kernels go through launch(), never <<<>>>; shared memory through HTC_SHARED; PTX through helpers with a host twin.
#pragma once
#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "simt.h"
#endif
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "ops.h"

namespace htc::cuda {

constexpr size_t kSharedUnasked = 21 * 1024;  // bytes of dynamic shared memory that every kernel may have

#if defined(__CUDACC__)

// One shared object of a block. The type must need no constructor.
#define HTC_SHARED(Type, name) __shared__ Type name

template <class T>
__device__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char htc_dynamic_shared[];
  return reinterpret_cast<T*>(htc_dynamic_shared);
}

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // told here, so nobody else's to find
  throw std::runtime_error(std::string("htc_fast: ") + what + ": " + cudaGetErrorString(error));
}

template <class... P>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, Stream stream,
            std::type_identity_t<P>... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  // Without asking, what is declared (27 KB at most) and what is dynamic share 48 KB.
  if (shared > kSharedUnasked)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), name);
  void* pointers[] = {static_cast<void*>(&arguments)...};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared,
                         static_cast<cudaStream_t>(stream)),
        name);
}

inline void fill_zero(void* memory, size_t bytes, Stream stream) {
  if (bytes > 0) check(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)), "memset");
}

// Adds four floats at a 16-byte aligned address of global memory: one instruction from sm_90 on, four before.
__device__ __forceinline__ void add4(float* address, float a, float b, float c, float d) {
  const size_t global = __cvta_generic_to_global(address);
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(global), "f"(a), "f"(b), "f"(c), "f"(d)
               : "memory");
#else
  asm volatile("red.global.add.f32 [%0], %1;" ::"l"(global), "f"(a) : "memory");
  asm volatile("red.global.add.f32 [%0], %1;" ::"l"(global + 4), "f"(b) : "memory");
  asm volatile("red.global.add.f32 [%0], %1;" ::"l"(global + 8), "f"(c) : "memory");
  asm volatile("red.global.add.f32 [%0], %1;" ::"l"(global + 12), "f"(d) : "memory");
#endif
}

// The same value, unknown to the compiler: what follows from it is worked out where it is needed, not carried through
// a loop in registers.
template <class T>
__device__ __forceinline__ T* opaque(T* pointer) {
  asm volatile("" : "+l"(pointer));
  return pointer;
}
__device__ __forceinline__ int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

#else  // the emulator

#define HTC_SHARED(Type, name) Type& name = *static_cast<Type*>(simt::block_shared(sizeof(Type), alignof(Type)))

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(simt::dynamic_shared());
}

template <class... P>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, Stream,
            std::type_identity_t<P>... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || simt::written_down(name)) return;
  simt::shared_limit = shared > kSharedUnasked ? 227 * 1024 : 48 * 1024;
  simt::run(name, grid, block, shared, [&] { kernel(arguments...); });
}

inline void fill_zero(void* memory, size_t bytes, Stream) {
  if (bytes > 0 && !simt::written_down("memset")) std::memset(memory, 0, bytes);
}

template <class T>
T opaque(T value) {
  return value;
}

inline void add4(float* address, float a, float b, float c, float d) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) simt::fail("add4 at an address that is not 16-byte aligned");
  const float values[] = {a, b, c, d};
  for (int i = 0; i < 4; i++) atomicAdd(address + i, values[i]);
}

#endif

template <class T>
constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace htc::cuda
