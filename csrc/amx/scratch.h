// Memory of a thread's own.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace htc::amx {

// Kept between calls: fresh memory costs a page fault every 4 KB.
inline uint16_t* scratch(int64_t count) {
  struct Free {
    void operator()(uint16_t* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<uint16_t[], Free> memory;
  thread_local int64_t size = 0;
  if (size < count) {
    memory.reset();
    size = 0;
    const int64_t whole = (count + 31) / 32 * 32;
    memory.reset(static_cast<uint16_t*>(std::aligned_alloc(64, static_cast<size_t>(whole) * 2)));
    if (!memory) throw std::bad_alloc();
    size = whole;
  }
  return memory.get();
}

}  // namespace htc::amx
