// What the emulator's blocks are made of: fibers, each a stack with a guard page below it and a switch that saves what
// the calling convention keeps; warps; and shared memory, which begins as NaN.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include "race.h"
#include "simt.h"

namespace simt {
namespace {

constexpr size_t kStack = 256 << 10;

#if defined(__x86_64__)
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.globl simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");
struct Context {
  void* stack_pointer = nullptr;
  void start(char* stack, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + size);
    *--top = nullptr;  // the return address of an entry that never returns; also keeps the stack aligned
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    stack_pointer = top;
  }
  void switch_to(Context& next) { simt_switch(&stack_pointer, next.stack_pointer); }
};
#else
struct Context {
  ucontext_t context;
  void start(char* stack, size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  void switch_to(Context& next) { swapcontext(&context, &next.context); }
};
#endif

struct Fiber : Thread {
  Context context;
  char* stack = nullptr;
  void* fake_stack = nullptr;
  bool ready = false, done = false;
  const char* waits = "";
  uint64_t seen[32];  // the last collective's values
  size_t shared_calls = 0;

  Fiber() {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    char* base = static_cast<char*>(
        mmap(nullptr, kStack + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base == MAP_FAILED || mprotect(base, page, PROT_NONE) != 0) throw std::runtime_error("simt: no stack memory");
    stack = base + page;
  }
};

struct Collective {
  unsigned mask, arrived;
  const char* what;
  uint64_t values[32];
};
struct Warp {
  unsigned exists = 0, barrier_mask = 0, barrier_arrived = 0;
  uint32_t epoch = 0;
  std::vector<Collective> pending;
};

struct SharedChunk {
  std::unique_ptr<void, void (*)(void*)> memory{nullptr, std::free};
  size_t bytes = 0;
};

SharedChunk new_chunk(size_t bytes, size_t alignment) {
  const size_t align = std::max<size_t>(alignment, 16);
  SharedChunk chunk;
  chunk.bytes = bytes;
  chunk.memory.reset(std::aligned_alloc(align, (bytes + align - 1) / align * align));
  std::memset(chunk.memory.get(), 0xff, bytes);  // NaN as a float, -1 as an integer
  race::clear(chunk.memory.get(), bytes);
  return chunk;
}

}  // namespace
}  // namespace simt
