// Many boxes in order: a radix sort by score over all multiprocessors, eight bits a launch, then a pass by group. What
// stays is marked by its place among the scores, so that a scan of the marks is the result.
//   radix_keys   candidates as keys, how many have each digit
//   radix_pass   one digit: a block takes 2048 keys and asks the blocks before it how many they have of each
//   nms_collect  the marked ones, best first
#pragma once
#include "cuda/block_scan.cuh"
#include "cuda/nms_groups.cuh"
#include "cuda/signal.cuh"

namespace htc::cuda {
namespace {

constexpr int kItems = kRadixTile / kThreads;  // keys of a thread
constexpr int kNone = kRadixDigits;            // the digit of what is not there

// The best has the lowest digits; what is no candidate has key 0 and comes last.
__device__ __forceinline__ int digit_of(uint64_t key, int pass) {
  return static_cast<int>(~(key >> (32 + 8 * pass)) & (kRadixDigits - 1));
}

struct KeysShared {
  int digits[kScorePasses][kRadixDigits];
  int groups[kMaxGroups];
};

__global__ void __launch_bounds__(kThreads) radix_keys(const __grid_constant__ NmsParams p) {
  HTC_SHARED(KeysShared, s);
  int* digits = &s.digits[0][0];
  const int image = static_cast<int>(blockIdx.x / p.blocks), thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kScorePasses * kRadixDigits; i += kThreads) digits[i] = 0;
  if (thread < kMaxGroups) s.groups[thread] = 0;
  __syncthreads();
  const int64_t begin = (blockIdx.x - image * p.blocks) * kRadixTile;
#pragma unroll
  for (int k = 0; k < kItems; k++) {
    const int64_t i = begin + k * kThreads + thread, at = image * p.count + i;
    if (i >= p.count) continue;
    const float score = p.scores[at];
    const uint8_t group = group_of_box(p, at, score);
    const uint64_t key = group == kNoGroup ? 0 : sort_key(score, static_cast<uint32_t>(i));
    p.keys[at] = key;
    p.group_of[image * p.padded + i] = group;
    if (group != kNoGroup) atomicAdd(&s.groups[group], 1);
#pragma unroll
    for (int pass = 0; pass < kScorePasses; pass++) atomicAdd(&s.digits[pass][digit_of(key, pass)], 1);
  }
  __syncthreads();
  for (int i = thread; i < kScorePasses * kRadixDigits; i += kThreads)
    if (digits[i] > 0) atomicAdd(&p.digits[image * kScorePasses * kRadixDigits + i], digits[i]);
  if (thread < p.groups && s.groups[thread] > 0) atomicAdd(&p.sizes[image * p.groups + thread], s.groups[thread]);
}

struct PassShared {
  ScanShared<int> scan;
  int counts[kWarps][kRadixDigits + 1];  // of each warp; then of the warps before it
  int starts[kRadixDigits];              // where this block's keys of a digit begin
  int before[2][kRadixDigits];           // how many the blocks before have: even ones, odd ones
  int tile;
};

// How many keys of a digit every second block before this one has, from the first or the second on.
__device__ __forceinline__ int count_before(const uint32_t* told, int first, int tile) {
  constexpr int kAtOnce = 8;
  int sum = 0;
  for (int t = first; t < tile; t += 2 * kAtOnce) {
    uint32_t counts[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) counts[j] = t + 2 * j < tile ? peek(told + (t + 2 * j) * kRadixDigits) : 1;
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) {
      while (counts[j] == 0) {
        pause(20);
        counts[j] = peek(told + (t + 2 * j) * kRadixDigits);
      }
      sum += static_cast<int>(counts[j]) - 1;
    }
  }
  return sum;
}

// Where the block's keys of every digit begin: behind the lower digits, and behind the same digit's of blocks before.
__device__ __forceinline__ void find_starts(const NmsParams& p, PassShared& s, int image, int pass,
                                            const int32_t* totals, int digits) {
  const int thread = static_cast<int>(threadIdx.x), digit = thread % kRadixDigits;
  uint32_t* told = p.told + ((pass * p.images + image) * p.blocks) * kRadixDigits + digit;
  if (thread < kRadixDigits) {
    int sum = 0;
    for (int w = 0; w < kWarps; w++) {
      const int count = s.counts[w][digit];
      s.counts[w][digit] = sum;
      sum += count;
    }
    publish(told + s.tile * kRadixDigits, static_cast<uint32_t>(sum) + 1);
  }
  const Prefix<int> prefix = block_prefix(s.scan, thread < digits ? totals[thread] : 0);
  if (thread < kRadixDigits) s.starts[digit] = prefix.before;
  s.before[thread / kRadixDigits][digit] = count_before(told, thread / kRadixDigits, s.tile);
  __syncthreads();
}

// ByGroup: the pass behind those by score; it also fetches the boxes.
template <bool ByGroup>
__global__ void __launch_bounds__(kThreads, 1) radix_pass(const __grid_constant__ NmsParams p, int pass) {
  HTC_SHARED(PassShared, s);
  const int image = static_cast<int>(blockIdx.x / p.blocks), thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32, warp = thread / 32;
  int* counts = s.counts[warp];
  if (thread == 0) s.tile = atomicAdd(&p.tickets[image * kTickets + 1 + pass], 1);
  for (int i = lane; i <= kRadixDigits; i += 32) counts[i] = 0;
  __syncthreads();
  const uint64_t* from = (pass % 2 == 0 ? p.keys : p.kept_keys) + image * p.count;
  const int64_t begin = int64_t{s.tile} * kRadixTile + warp * (32 * kItems) + lane;
  uint64_t keys[kItems];
  int digits[kItems], places[kItems];
#pragma unroll
  for (int k = 0; k < kItems; k++) keys[k] = begin + 32 * k < p.count ? from[begin + 32 * k] : 0;
#pragma unroll
  for (int k = 0; k < kItems; k++) {
    if (ByGroup) digits[k] = keys[k] != 0 ? p.group_of[image * p.padded + index_of(keys[k])] : kNone;
    else digits[k] = begin + 32 * k < p.count ? digit_of(keys[k], pass) : kNone;
  }
#pragma unroll
  for (int k = 0; k < kItems; k++) {
    const unsigned alike = __match_any_sync(~0u, digits[k]);
    const int before = __popc(alike & ((1u << lane) - 1)), seen = counts[digits[k]];
    __syncwarp();
    if (before == 0) counts[digits[k]] = seen + __popc(alike);
    __syncwarp();
    places[k] = seen + before;
  }
  __syncthreads();
  find_starts(p, s, image, pass,
              ByGroup ? p.sizes + image * p.groups : p.digits + (image * kScorePasses + pass) * kRadixDigits,
              ByGroup ? p.groups : kRadixDigits);
#pragma unroll
  for (int k = 0; k < kItems; k++) {
    if (digits[k] == kNone) continue;
    const int digit = digits[k];
    const int64_t to =
        image * p.count + s.starts[digit] + s.before[0][digit] + s.before[1][digit] + counts[digit] + places[k];
    if (!ByGroup) {
      (pass % 2 == 0 ? p.kept_keys : p.keys)[to] = keys[k];
      continue;
    }
    const int64_t box = image * p.count + index_of(keys[k]);
    p.kept_boxes[to] = load_box(p.boxes + 4 * box);
    p.kept_classes[to] = p.classes == nullptr ? 0 : p.classes[box];
    p.ranks[to] = static_cast<uint32_t>(begin + 32 * k);
  }
}

__global__ void __launch_bounds__(kThreads) nms_collect(const __grid_constant__ NmsParams p) {
  HTC_SHARED(ScanShared<int>, scan);
  const int64_t image = blockIdx.x / p.blocks, block = blockIdx.x - image * p.blocks;
  const int thread = static_cast<int>(threadIdx.x);
  int kept_before = 0, kept = 0;
  for (int64_t b = thread; b < p.blocks; b += kThreads) {
    const int here = p.kept_in[image * p.blocks + b];
    kept += here;
    kept_before += b < block ? here : 0;
  }
  const int64_t total = block_prefix(scan, kept).total, first = block_prefix(scan, kept_before).total;
  int64_t* out = p.indices + image * p.max_output;
  for (int64_t i = total + kThreads * block + thread; i < p.max_output; i += kThreads * p.blocks) out[i] = -1;
  if (block == 0 && thread == 0) p.counts[image] = static_cast<int32_t>(min(total, p.max_output));
  if (first >= p.max_output) return;
  const int64_t begin = block * kRadixTile + kItems * thread;
  const uint32_t marks = begin < p.padded ? *reinterpret_cast<const uint32_t*>(p.flags + image * p.padded + begin) : 0;
  int64_t place = first + block_prefix(scan, __popc(marks)).before;
#pragma unroll
  for (int k = 0; k < kItems; k++) {
    if (!(marks >> 8 * k & 1)) continue;
    if (place < p.max_output) out[place] = index_of(p.keys[image * p.count + begin + k]);
    place++;
  }
}

}  // namespace
}  // namespace htc::cuda
