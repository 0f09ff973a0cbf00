#include "race.h"

#include <array>
#include <unordered_map>

#include "simt.h"

namespace simt::race {

#if !defined(SIMT_RACE)

void start_launch() {}
std::string finish_launch() { return {}; }
void clear(const void*, size_t) {}
void access(const void*, size_t, bool, bool) {}

#else

namespace {

constexpr uint32_t kNobody = 0xffffffff, kSeveral = 0xfffffffe;
struct Touch {
  uint32_t block = kNobody, thread = kNobody, warp = kNobody, block_epoch = 0, warp_epoch = 0;
  bool atomic = false;
};
struct Byte {
  Touch write, read;
};
std::unordered_map<uintptr_t, std::array<Byte, 16> > shadow;  // by 16-byte line
std::string found;

// Whether what `before` did is finished and visible for the thread that runs now.
bool ordered(const Touch& before, const Place& now) {
  if (before.thread == kNobody) return true;
  if (before.block != now.block) return false;
  if (before.thread == now.thread || before.block_epoch < now.block_epoch) return true;
  return before.warp == now.thread / 32 && before.warp_epoch < now.warp_epoch;
}

void report(const void* address, const char* first, const Touch& before, const char* second, const Place& now) {
  if (!found.empty()) return;
  char text[256];
  std::snprintf(text, sizeof text,
                "race at %p: %s by block %u thread %d, then %s by block %u thread %u, unordered, in ", address, first,
                before.block, static_cast<int>(before.thread), second, now.block, now.thread);
  found = text + kernel_place();
}

void touch(Byte& byte, const char* address, const Place& now, bool write, bool atomic) {
  const char* name = atomic ? "an atomic" : write ? "a write" : "a read";
  if (!ordered(byte.write, now) && !(atomic && byte.write.atomic))
    report(address, byte.write.atomic ? "an atomic" : "a write", byte.write, name, now);
  if (write && !ordered(byte.read, now)) report(address, "a read", byte.read, name, now);
  Touch& last = write ? byte.write : byte.read;
  Touch mine{now.block, now.thread, now.thread / 32, now.block_epoch, now.warp_epoch, atomic};
  if (!write && !ordered(last, now)) {  // two readers in one epoch: remember that there were several
    mine.thread = kSeveral;
    if (last.block != now.block) mine.block = kSeveral;
    if (last.warp != mine.warp) mine.warp = kSeveral;
  }
  last = mine;
}

}  // namespace

void start_launch() {
  shadow.clear();
  found.clear();
}
std::string finish_launch() { return found; }

void clear(const void* address, size_t bytes) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(address) / 16;
  for (uintptr_t line = first; line <= first + bytes / 16; line++) shadow.erase(line);
}

void access(const void* address, size_t bytes, bool write, bool atomic) {
  const Place now = here();
  if (!now.in_kernel || on_stack(address)) return;
  const char* p = static_cast<const char*>(address);
  for (size_t i = 0; i < bytes; i++) {
    const uintptr_t a = reinterpret_cast<uintptr_t>(p + i);
    touch(shadow[a / 16][a % 16], p + i, now, write, atomic);
  }
}

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
#define SIMT_ACCESS(bytes)                                                       \
  void __tsan_read##bytes(void* p) { access(p, bytes, false, false); }           \
  void __tsan_write##bytes(void* p) { access(p, bytes, true, false); }           \
  void __tsan_unaligned_read##bytes(void* p) { access(p, bytes, false, false); } \
  void __tsan_unaligned_write##bytes(void* p) { access(p, bytes, true, false); } \
  void __tsan_volatile_read##bytes(void* p) { access(p, bytes, false, false); }  \
  void __tsan_volatile_write##bytes(void* p) { access(p, bytes, true, false); }
SIMT_ACCESS(1)
SIMT_ACCESS(2)
SIMT_ACCESS(4)
SIMT_ACCESS(8)
SIMT_ACCESS(16)
void __tsan_read_range(void* p, size_t bytes) { access(p, bytes, false, false); }
void __tsan_write_range(void* p, size_t bytes) { access(p, bytes, true, false); }
}

#endif

}  // namespace simt::race
