// What one block tells later blocks of the same launch. Each word carries its own "it is there": it is zero before, and
// nothing else is read because of it, so that no fence is needed.
// Who waits has to take a ticket from a counter, and may wait only for smaller tickets: those are blocks that already
// run, whatever the order in which a GPU starts blocks and however few of them fit.
#pragma once
#include "cuda/launch.cuh"

namespace htc::cuda {

#if defined(__CUDACC__)

__device__ __forceinline__ void publish(uint32_t* word, uint32_t value) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(word)), "r"(value) : "memory");
}
__device__ __forceinline__ void publish(uint64_t* word, uint64_t value) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(__cvta_generic_to_global(word)), "l"(value) : "memory");
}
__device__ __forceinline__ uint32_t peek(const uint32_t* word) {
  uint32_t value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(__cvta_generic_to_global(word)) : "memory");
  return value;
}
__device__ __forceinline__ uint64_t peek(const uint64_t* word) {
  uint64_t value;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(__cvta_generic_to_global(word)) : "memory");
  return value;
}
__device__ __forceinline__ void pause(unsigned nanoseconds) { __nanosleep(nanoseconds); }
__device__ __forceinline__ void pause() {}  // for who waits alone: the next look takes long enough

#else  // the emulator: smaller tickets have finished

template <class T>
void publish(T* word, T value) {
  atomicExch(word, value);
}
template <class T>
T peek(const T* word) {
  return atomicAdd(const_cast<T*>(word), T{0});
}
inline void pause(unsigned = 0) { simt::fail("a block waits for one that did not publish"); }

#endif

}  // namespace htc::cuda
