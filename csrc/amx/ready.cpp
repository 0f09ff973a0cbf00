// Whether this processor has a matrix unit for bfloat16, and this process may use it.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "convolutions.h"

namespace htc::amx {

bool ready() {
  static const bool is = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool unit = (d >> 22 & 1) && (d >> 24 & 1);                                      // AMX-BF16 and AMX-TILE
    if (!unit || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return false;  // AVX512_BF16
#if defined(__linux__)
    // The system keeps room for a thread's tiles once a process has asked.
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
    return cpu::instruction_set() == 2 && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
    return false;
#endif
  }();
  return is;
}

}  // namespace htc::amx
