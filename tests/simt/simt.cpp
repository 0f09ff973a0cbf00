// The emulator's scheduler: fibers, barriers, warp collectives, shared memory. Compiled without instrumentation.
#include "simt.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#include "fiber.h"
#include "race.h"

namespace simt {

Thread* current = nullptr;
dim3 block_index, block_size, grid_size;
size_t shared_limit = 48 << 10;
uint64_t seed = std::getenv("SIMT_SEED") ? std::strtoull(std::getenv("SIMT_SEED"), nullptr, 10) : 0;

namespace {

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
std::vector<unsigned> ready;
std::vector<SharedChunk> chunks;
SharedChunk dynamic_chunk;
Context scheduler;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_size = 0;
const std::function<void()>* kernel_body = nullptr;
std::string kernel_name, failure;
unsigned alive = 0, at_barrier = 0, barrier_votes = 0, barrier_result = 0;
uint32_t block_epoch = 0;
uint64_t random_state = 0;

Fiber& self() { return *static_cast<Fiber*>(current); }

uint64_t random_bits() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

void to_scheduler(bool last) {
  Fiber& fiber = self();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_stack_size);
#endif
  fiber.context.switch_to(scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack, &scheduler_stack_size);
#endif
  (void)last;
}

void resume(Fiber& fiber) {
  current = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, kStack);
#endif
  scheduler.switch_to(fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  current = nullptr;
}

void wake(Fiber& fiber) {
  fiber.ready = true;
  ready.push_back(fiber.linear);
}

void wait(const char* what) {
  Fiber& fiber = self();
  fiber.waits = what;
  fiber.ready = false;
  to_scheduler(false);
}

// Wakes whoever waits at the block's barrier once every thread that still runs is there.
void release_barrier() {
  if (at_barrier == 0 || at_barrier < alive) return;
  barrier_result = barrier_votes;
  at_barrier = barrier_votes = 0;
  block_epoch++;
  for (auto& fiber : fibers)
    if (fiber->linear < block_size.x * block_size.y * block_size.z && !fiber->done && !fiber->ready) wake(*fiber);
}

void entry() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
  (*kernel_body)();
  self().done = true;
  alive--;
  release_barrier();
  to_scheduler(true);
  std::abort();
}

std::string place() {
  return "kernel " + kernel_name + ", block (" + std::to_string(block_index.x) + ", " + std::to_string(block_index.y) +
         ", " + std::to_string(block_index.z) + ")";
}

std::string deadlock() {
  std::string text = "deadlock in " + place() + ":";
  unsigned done = 0;
  std::vector<std::pair<std::string, unsigned>> waiting;
  for (unsigned i = 0; i < block_size.x * block_size.y * block_size.z; i++) {
    if (fibers[i]->done) {
      done++;
      continue;
    }
    auto at = std::find_if(waiting.begin(), waiting.end(), [&](auto& w) { return w.first == fibers[i]->waits; });
    if (at == waiting.end()) waiting.emplace_back(fibers[i]->waits, 1);
    else at->second++;
  }
  for (auto& [what, count] : waiting) text += " " + std::to_string(count) + " threads wait at " + what + ",";
  return text + " " + std::to_string(done) + " have finished";
}

void start_block(unsigned count, size_t dynamic_bytes) {
  alive = count;
  at_barrier = barrier_votes = 0;
  block_epoch = 0;
  chunks.clear();
  dynamic_chunk = new_chunk(dynamic_bytes, 128);
  warps.assign((count + 31) / 32, Warp{});
  ready.clear();
  for (unsigned i = 0; i < count; i++) {
    if (i >= fibers.size()) fibers.push_back(std::make_unique<Fiber>());
    Fiber& fiber = *fibers[i];
    fiber.index = dim3(i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y));
    fiber.linear = i;
    fiber.lane = i % 32;
    fiber.warp = i / 32;
    fiber.done = false;
    fiber.shared_calls = 0;
    fiber.waits = "";
    warps[fiber.warp].exists |= 1u << fiber.lane;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, kStack);  // a failed launch leaves frames behind
#endif
    fiber.context.start(fiber.stack, kStack, entry);
    wake(fiber);
  }
}

void run_block() {
  while (failure.empty() && !ready.empty()) {
    // In order for seed 0 (first woken, first run), any ready thread otherwise.
    const size_t pick = seed == 0 ? 0 : random_bits() % ready.size();
    const unsigned chosen = ready[pick];
    if (seed == 0) {
      // Run the whole wave before looking again: erasing from the front one by one would be quadratic.
      std::vector<unsigned> wave;
      wave.swap(ready);
      for (unsigned i : wave)
        if (failure.empty()) resume(*fibers[i]);
      continue;
    }
    ready[pick] = ready.back();
    ready.pop_back();
    resume(*fibers[chosen]);
  }
  if (failure.empty() && alive > 0) failure = deadlock();
}

}  // namespace

void fail(const std::string& why) {
  failure = why + " in " + place() + ", thread " + std::to_string(current->linear);
  to_scheduler(false);
  std::abort();
}

void block_barrier() { block_barrier_count(false); }

int block_barrier_count(bool predicate) {
  at_barrier++;
  barrier_votes += predicate;
  self().waits = "__syncthreads";
  self().ready = false;
  release_barrier();
  to_scheduler(false);
  return static_cast<int>(barrier_result);
}

void warp_barrier(unsigned mask) { warp_exchange(mask, 0, "__syncwarp"); }

const uint64_t* warp_exchange(unsigned mask, uint64_t value, const char* what) {
  Fiber& fiber = self();
  Warp& warp = warps[fiber.warp];
  mask &= warp.exists;
  const unsigned bit = 1u << fiber.lane;
  if (!(mask & bit)) fail(std::string(what) + " by a lane that its mask leaves out");
  auto matches = [&](const Collective& c) { return c.mask == mask && c.what == what && !(c.arrived & bit); };
  auto slot = std::find_if(warp.pending.begin(), warp.pending.end(), matches);
  if (slot == warp.pending.end()) {
    warp.pending.push_back({mask, 0, what, {}});
    slot = warp.pending.end() - 1;
  }
  slot->arrived |= bit;
  slot->values[fiber.lane] = value;
  if (slot->arrived == mask) {
    const Collective complete = *slot;
    warp.pending.erase(slot);
    // For the race check: only a barrier of the whole warp orders memory, shuffles and votes do not.
    if (mask == warp.exists && std::strcmp(what, "__syncwarp") == 0) warp.epoch++;
    for (unsigned lane = 0; lane < 32; lane++) {
      if (!(mask >> lane & 1)) continue;
      Fiber& other = *fibers[fiber.warp * 32 + lane];
      std::memcpy(other.seen, complete.values, sizeof other.seen);
      if (&other != &fiber) wake(other);
    }
    wake(fiber);  // it queues like the others: nothing may rely on the last one to arrive running on
    to_scheduler(false);
  } else {
    wait(what);
  }
  return fiber.seen;
}

void* block_shared(size_t bytes, size_t alignment) {
  Fiber& fiber = self();
  const size_t call = fiber.shared_calls++;
  if (call == chunks.size()) {
    chunks.push_back(new_chunk(bytes, alignment));
    size_t total = dynamic_chunk.bytes;
    for (auto& chunk : chunks) total += chunk.bytes;
    if (total > shared_limit) fail("more shared memory than a block has (" + std::to_string(total) + " bytes)");
  }
  if (chunks[call].bytes != bytes) fail("threads declare different shared memory: declare it first thing in a kernel");
  return chunks[call].memory.get();
}

void* dynamic_shared() { return dynamic_chunk.memory.get(); }
void note_atomic(const void* address, size_t bytes) { race::access(address, bytes, true, true); }

race::Place race::here() {
  if (current == nullptr) return {};
  const uint32_t block = (block_index.z * grid_size.y + block_index.y) * grid_size.x + block_index.x;
  return {true, block, self().linear, block_epoch, warps[self().warp].epoch};
}
std::string race::kernel_place() { return place(); }
bool race::on_stack(const void* address) {
  const char* p = static_cast<const char*>(address);
  return p >= self().stack && p < self().stack + kStack;
}

void run(const char* kernel, dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& body) {
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> lock(one_at_a_time);
  kernel_name = kernel;
  const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  const unsigned count = block.x * block.y * block.z;
  if (count == 0 || count > 1024 || block.z > 64 || blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535 || dynamic_bytes > shared_limit)
    throw std::runtime_error("simt: a GPU would refuse this launch of " + kernel_name + ": grid (" +
                             std::to_string(grid.x) + ", " + std::to_string(grid.y) + ", " + std::to_string(grid.z) +
                             "), block of " + std::to_string(count) + ", shared memory " +
                             std::to_string(dynamic_bytes));
  grid_size = grid;
  block_size = block;
  kernel_body = &body;
  failure.clear();
  random_state = seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
  race::start_launch();
  std::vector<uint32_t> order(blocks);
  for (uint64_t i = 0; i < blocks; i++) order[i] = static_cast<uint32_t>(i);
  if (seed != 0)
    for (uint64_t i = blocks - 1; i > 0; i--) std::swap(order[i], order[random_bits() % (i + 1)]);
  for (uint32_t i : order) {
    block_index = dim3(i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y));
    start_block(count, dynamic_bytes);
    run_block();
    if (!failure.empty()) break;
  }
  chunks.clear();
  if (failure.empty()) failure = race::finish_launch();
  if (!failure.empty()) throw std::runtime_error("simt: " + failure);
}

}  // namespace simt

extern "C" __attribute__((visibility("default"))) void simt_set_seed(uint64_t seed) { simt::seed = seed; }
