// Every file in csrc/cpu is compiled once per instruction set, into namespace htc::cpu::<set>; the best one is called.
// A kernel file opens `namespace htc::cpu::HTC_INSTRUCTION_SET {` and defines `void roi_align(const RoiAlign&, const
// Parallel&)`; ops.h declares all of them and the chooser with HTC_CPU_KERNEL(roi_align, RoiAlign).
#pragma once
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#define HTC_CPU_KERNEL(name, Arguments)                                    \
  namespace cpu {                                                          \
  namespace baseline {                                                     \
  void name(const Arguments&, const Parallel&);                            \
  }                                                                        \
  namespace avx2 {                                                         \
  void name(const Arguments&, const Parallel&);                            \
  }                                                                        \
  namespace avx512 {                                                       \
  void name(const Arguments&, const Parallel&);                            \
  }                                                                        \
  inline void name(const Arguments& arguments, const Parallel& parallel) { \
    switch (instruction_set()) {                                           \
      case 2: return avx512::name(arguments, parallel);                    \
      case 1: return avx2::name(arguments, parallel);                      \
      default: return baseline::name(arguments, parallel);                 \
    }                                                                      \
  }                                                                        \
  }
#else
#define HTC_CPU_KERNEL(name, Arguments)                                    \
  namespace cpu {                                                          \
  namespace baseline {                                                     \
  void name(const Arguments&, const Parallel&);                            \
  }                                                                        \
  inline void name(const Arguments& arguments, const Parallel& parallel) { \
    return baseline::name(arguments, parallel);                            \
  }                                                                        \
  }
#endif

namespace htc::cpu {

// 0 baseline, 1 AVX2 + FMA, 2 AVX-512 (F, BW, CD, DQ, VL): what this processor runs, and ATEN_CPU_CAPABILITY allows.
inline int instruction_set() {
#if defined(__x86_64__)
  static const int best = [] {
    const int there = __builtin_cpu_supports("x86-64-v4") ? 2 : __builtin_cpu_supports("x86-64-v3") ? 1 : 0;
    const char* asked = std::getenv("ATEN_CPU_CAPABILITY");
    const int allowed = !asked ? 2 : !std::strcmp(asked, "default") ? 0 : !std::strcmp(asked, "avx2") ? 1 : 2;
    return there < allowed ? there : allowed;
  }();
  return best;
#else
  return 0;
#endif
}

}  // namespace htc::cpu
