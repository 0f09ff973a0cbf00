// The race check: two threads touch a byte, one of them writes, and no barrier stands between.
// Compiled with -fsanitize=thread but linked without its runtime, every memory access of a kernel calls one of the
// __tsan_ functions in race.cpp; they compare it with the last accesses of that byte. Other builds never call them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace simt::race {

struct Place {
  bool in_kernel = false;
  uint32_t block = 0, thread = 0, block_epoch = 0, warp_epoch = 0;
};
Place here();
std::string kernel_place();
bool on_stack(const void* address);

void start_launch();
std::string finish_launch();  // the first race found, or nothing
void clear(const void* address, size_t bytes);
void access(const void* address, size_t bytes, bool write, bool atomic);

}  // namespace simt::race
