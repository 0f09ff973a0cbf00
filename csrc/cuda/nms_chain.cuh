// Tiles decided by a block each, all under way at once: a block compares its boxes with those that the tiles before it
// kept, as soon as they are known, so that a group of 100 000 boxes is every multiprocessor's work, and what one tile
// waits for the one before it is a word from the other block.
//   nms_chain  per tile: which of its boxes stay
#pragma once
#include "cuda/nms_tiles.cuh"
#include "cuda/signal.cuh"

namespace htc::cuda {
namespace {

constexpr int kTileThreads = 256, kTileWarps = kTileThreads / 32;
constexpr int kShare = kChunk / kTileWarps;  // of a better tile's boxes, those that a warp compares
constexpr int kNear = 2;                     // tiles whose overlaps are made before it is known who stays

// A tile's state: two words, each 32 of its boxes' bits (who stays) and, above them, that they are known.
constexpr uint64_t kKnown = uint64_t{1} << 32;

struct ChainShared {
  GroupTable table;
  Box boxes[kChunk];
  Box shares[kTileWarps][kShare];
  int64_t classes[kChunk];
  int64_t share_classes[kTileWarps][kShare];
  uint64_t earlier[kChunk];      // the tile's better boxes that overlap this one
  uint64_t near[kNear][kChunk];  // those of the tiles before
  unsigned gone[2];              // bits: suppressed by the tiles before
  int group, chunk;
};

// The tile's boxes as each warp holds them, two a lane.
struct Own {
  Box boxes[2];
  int64_t classes[2];
  bool gone[2];
};

// A warp's share of a better tile, a box a lane, on its way from memory.
struct Share {
  Box box;
  int64_t cls;
};
__device__ __forceinline__ Share fetch_share(const NmsParams& p, int64_t tile_begin) {
  const int64_t at = tile_begin + threadIdx.x / 32 * kShare + threadIdx.x % kShare;
  return {load_box(p.kept_boxes + at), p.kept_classes[at]};
}

// Which of a share's boxes (of those in `bits`) overlap which own ones: bit b for the lane's first, kShare + b for its
// second.
__device__ __forceinline__ unsigned share_overlaps(const NmsParams& p, ChainShared& s, const Own& own,
                                                   const Share& share, unsigned bits) {
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  if (lane < kShare) {
    s.shares[warp][lane] = share.box;
    s.share_classes[warp][lane] = share.cls;
  }
  __syncwarp();
  unsigned hits = 0;
  while (bits != 0) {
    // Two at a time, so that one's arithmetic fills the other's gaps; the last one perhaps twice.
    const int first = __ffs(static_cast<int>(bits)) - 1;
    bits &= bits - 1;
    const int second = bits != 0 ? __ffs(static_cast<int>(bits)) - 1 : first;
    bits &= bits - 1;
    Overlap found[2][2];
    bool maybe[2][2], any = false;
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const Box better = s.shares[warp][n == 0 ? first : second];
      const int64_t cls = s.share_classes[warp][n == 0 ? first : second];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        found[n][h] = overlap_of(better, own.boxes[h]);
        maybe[n][h] = (cls == own.classes[h]) & may_exceed(p, found[n][h]);
        any |= maybe[n][h];
      }
    }
    if (!any) continue;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int h = 0; h < 2; h++)
        if (maybe[n][h] && exceeds(p, found[n][h])) hits |= 1u << ((n == 0 ? first : second) + kShare * h);
  }
  __syncwarp();
  return hits;
}

// Of the bits of a tile, the warp's share, for both of the lane's boxes.
__device__ __forceinline__ unsigned share_of(unsigned low, unsigned high) {
  const int warp = static_cast<int>(threadIdx.x / 32), half = kTileWarps / 2;
  return (warp < half ? low : high) >> warp % half * kShare & ((1u << kShare) - 1);
}

__device__ __forceinline__ void suppress(Own& own, unsigned hits) {
  own.gone[0] = own.gone[0] || (hits & ((1u << kShare) - 1)) != 0;
  own.gone[1] = own.gone[1] || hits >> kShare != 0;
}

// Takes what the first `chunks` tiles kept, as it becomes known; adds up how many. Ends where that is enough.
__device__ __forceinline__ void compare_far(const NmsParams& p, ChainShared& s, Own& own, const uint64_t* states,
                                            int64_t first, int chunks, int limit, int& kept) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  Share share = fetch_share(p, first);
  for (int chunk = 0; chunk < chunks && kept < limit;) {
    const uint64_t word = lane < 2 * (chunks - chunk) ? peek(states + 2 * chunk + lane) : 0;
    const unsigned missing = ~__ballot_sync(~0u, word != 0);
    const int known = (missing == 0 ? 32 : __ffs(static_cast<int>(missing)) - 1) / 2;
    // The further away, the longer: else all blocks would crowd at the one word that comes next.
    if (known == 0) pause(min(64u * static_cast<unsigned>(chunks - chunk + kNear), 2000u));
    for (int k = 0; k < known; k++) {
      const auto half = static_cast<unsigned>(word);
      const unsigned low = __shfl_sync(~0u, half, 2 * k), high = __shfl_sync(~0u, half, 2 * k + 1);
      kept += __popc(low) + __popc(high);
      const Share now = share;
      share = fetch_share(p, first + int64_t{kChunk} * (chunk + k + 1));  // there is one: the own tile comes later
      suppress(own, share_overlaps(p, s, own, now, share_of(low, high)));
    }
    chunk += known;
  }
}

// Overlaps with a tile, a byte per warp and box: together they are a word per box.
__device__ __forceinline__ void write_near(uint64_t* words, unsigned hits) {
  static_assert(kShare == 8 && kTileWarps == 8);
  auto* bytes = reinterpret_cast<uint8_t*>(words);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  bytes[8 * lane + warp] = static_cast<uint8_t>(hits);
  bytes[8 * (lane + 32) + warp] = static_cast<uint8_t>(hits >> kShare);
}

// Waits, one warp alone, for one tile, whose overlaps with the own boxes are known; returns which of them it
// suppresses.
__device__ __forceinline__ uint64_t compare_near(const uint64_t* state, const uint64_t* words, int& kept) {
  const int lane = static_cast<int>(threadIdx.x);
  const uint64_t mine[2] = {words[lane], words[lane + 32]};
  uint64_t word = 0;
  while (lane < 2 && (word = peek(state + lane)) == 0) pause();
  __syncwarp();
  const auto half = static_cast<unsigned>(word);
  const uint64_t stays = __shfl_sync(~0u, half, 0) | static_cast<uint64_t>(__shfl_sync(~0u, half, 1)) << 32;
  kept += __popcll(stays);
  const unsigned low = __ballot_sync(~0u, (mine[0] & stays) != 0), high = __ballot_sync(~0u, (mine[1] & stays) != 0);
  return low | static_cast<uint64_t>(high) << 32;
}

// The tile's boxes to the lanes of every warp, and to shared memory.
__device__ __forceinline__ Own load_own(const NmsParams& p, ChainShared& s, int64_t first, int size) {
  Own own;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int i = static_cast<int>(threadIdx.x % 32) + 32 * h, in_group = s.chunk * kChunk + i;
    own.gone[h] = in_group >= size;
    own.boxes[h] = load_box(p.kept_boxes + first + min(in_group, size - 1));
    own.classes[h] = p.kept_classes[first + min(in_group, size - 1)];
    if (threadIdx.x >= 32) continue;
    s.boxes[i] = own.boxes[h];
    s.classes[i] = own.classes[h];
  }
  return own;
}

// Behind the decision: for the tiles that wait, for nms_rank, and by score for nms_collect.
__device__ __forceinline__ void tell(const NmsParams& p, int image, int64_t first, int64_t tile, uint64_t stays,
                                     int kept) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane < 2) publish(p.states + 2 * tile + lane, kKnown | static_cast<unsigned>(stays >> 32 * lane));
  if (lane == 0) p.kept_before[tile] = kept;
  if (p.blocks == 0) return;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int i = lane + 32 * h;
    if (!(stays >> i & 1)) continue;
    const uint32_t rank = p.ranks[first + i];
    p.flags[image * p.padded + rank] = 1;
    atomicAdd(&p.kept_in[image * p.blocks + rank / kRadixTile], 1);
  }
}

__global__ void __launch_bounds__(kTileThreads, 3) nms_chain(const __grid_constant__ NmsParams p) {
  HTC_SHARED(ChainShared, s);
  const int image = static_cast<int>(blockIdx.x / p.tiles), thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  if (warp == 0) {
    const int ticket = __shfl_sync(~0u, thread == 0 ? atomicAdd(&p.tickets[image * kTickets], 1) : 0, 0);
    make_table(p, image, s.table);
    __syncwarp();
    const Tile tile = tile_in_turn(s.table, ticket);
    if (thread == 0) s.group = tile.group, s.chunk = tile.chunk;
    if (thread < 2) s.gone[thread] = 0;
  }
  __syncthreads();
  const int group = s.group, chunk = s.chunk;
  if (group < 0) return;
  const int size = s.table.size(group);
  const auto limit = static_cast<int>(min(p.max_output, p.count));
  const int64_t first = image * p.count + s.table.begins[group], tile = image * p.tiles + s.table.tiles[group];
  const uint64_t* states = p.states + 2 * tile;
  Own own = load_own(p, s, first, size);
  Share near[kNear];
#pragma unroll
  for (int n = 0; n < kNear; n++) near[n] = fetch_share(p, first + int64_t{kChunk} * max(chunk - 1 - n, 0));
#pragma unroll
  for (int n = 0; n < kNear; n++)
    if (chunk > n) write_near(s.near[n], share_overlaps(p, s, own, near[n], (1u << kShare) - 1));
  __syncthreads();
  for (int i = warp; i < kChunk; i += kTileWarps) {
    const uint64_t bits = better_overlaps(p, own.boxes, own.classes, s.boxes[i], s.classes[i], i);
    if (thread % 32 == 0) s.earlier[i] = bits;
  }
  int kept = 0;
  compare_far(p, s, own, states, first, chunk - kNear, limit, kept);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const unsigned bits = __ballot_sync(~0u, own.gone[h]);
    if (thread % 32 == 0 && bits != 0) atomicOr(&s.gone[h], bits);
  }
  __syncthreads();
  if (warp != 0) return;
  uint64_t gone = s.gone[0] | static_cast<uint64_t>(s.gone[1]) << 32;
#pragma unroll
  for (int n = kNear - 1; n >= 0; n--)
    if (chunk > n && kept < limit) gone |= compare_near(states + 2 * (chunk - 1 - n), s.near[n], kept);
  const uint64_t stays = kept < limit ? settle_chunk(s.earlier, gone) : 0;
  tell(p, image, first + int64_t{kChunk} * chunk, tile + chunk, stays, kept);
}

}  // namespace
}  // namespace htc::cuda
