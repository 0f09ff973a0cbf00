// Which kernels a call would launch, at its real sizes: written down instead of run.
#include <string>

#include "simt.h"

namespace simt {
namespace {
std::string launches;
}
bool counting = false;

bool written_down(const char* launch) {
  if (counting) launches += std::string(launch) + " ";
  return counting;
}

}  // namespace simt

// From now on launches are counted, or run again.
extern "C" __attribute__((visibility("default"))) void simt_count(bool on) {
  simt::counting = on;
  simt::launches.clear();
}
// The names of those since then, each followed by a space.
extern "C" __attribute__((visibility("default"))) const char* simt_launches() { return simt::launches.c_str(); }
