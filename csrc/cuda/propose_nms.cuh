// NMS of candidates that lie level after level, best first, in tiles of 64: no more than kMostTiles of a level's.
//   propose_overlaps  per two tiles of a level: which boxes overlap, as bits: all multiprocessors
//   propose_settle    per (image, level): which boxes stay, a warp per tile: the serial part
//   propose_rank      per tile: what stays, at its place among the results
#pragma once
#include "cuda/nms_overlap.cuh"
#include "cuda/propose_sort.cuh"

namespace htc::cuda {
namespace {

constexpr int kPairThreads = 256, kPairWarps = kPairThreads / 32;
constexpr int kHalf = kChunk / 2;       // of a better tile's boxes, those that a warp compares
constexpr int kPairs = kPairWarps / 2;  // of a block
constexpr int kAhead = 4;               // tiles whose words are on their way while as many are settled
constexpr int kRankThreads = 256;

// The number of pairs (t, u <= t) of tiles below t.
__device__ __forceinline__ int pairs_below(int t) { return t * (t + 1) / 2; }

// Two tiles of a level: `tile` and a better one, or itself.
struct Pair {
  int level, tile, better;
};
__device__ __forceinline__ Pair pair_at(const ProposeParams& p, int n) {
  int level = 0;
  while (level + 1 < p.op.levels && n >= p.share[level + 1].first_pair) level++;
  const int nth = n - p.share[level].first_pair;
  int tile = static_cast<int>((sqrtf(8.0f * static_cast<float>(nth) + 1.0f) - 1.0f) * 0.5f);
  while (pairs_below(tile + 1) <= nth) tile++;
  while (pairs_below(tile) > nth) tile--;
  return {level, tile, nth - pairs_below(tile)};
}

// Not finite behind the level's end.
__device__ __forceinline__ Box candidate_box(const ProposeParams& p, int image, int level, int i) {
  const Share& share = p.share[level];
  if (i >= share.wanted) return {NAN, NAN, NAN, NAN};
  return load_box(p.boxes + static_cast<int64_t>(image) * p.candidates + share.first_candidate + i);
}

struct PairShared {
  Box boxes[kPairWarps][kHalf];
};

// Which of a warp's `better` boxes overlap the own ones. Divisions decide for few: each lane turns to its own ones
// last.
__device__ __forceinline__ void overlap_bits(const NmsParams& nms, const Box* better, const Box (&own)[2],
                                             uint32_t (&bits)[2]) {
  bits[0] = bits[1] = 0;
#pragma unroll 8
  for (int j = 0; j < kHalf; j++) {
    const Box box = better[j];
#pragma unroll
    for (int h = 0; h < 2; h++) bits[h] |= static_cast<uint32_t>(may_exceed(nms, overlap_of(box, own[h]))) << j;
  }
#pragma unroll
  for (int h = 0; h < 2; h++)
    for (uint32_t open = bits[h]; open != 0; open &= open - 1) {
      const int j = __ffs(static_cast<int>(open)) - 1;
      if (!exceeds(nms, overlap_of(better[j], own[h]))) bits[h] &= ~(1u << j);
    }
}

__global__ void __launch_bounds__(kPairThreads) propose_overlaps(const __grid_constant__ ProposeParams p) {
  HTC_SHARED(PairShared, s);
  const int blocks = ceil_div(p.pairs, kPairs), image = static_cast<int>(blockIdx.x) / blocks;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), half = warp % 2;
  const int n = (static_cast<int>(blockIdx.x) - image * blocks) * kPairs + warp / 2;
  if (n >= p.pairs) return;
  const Pair pair = pair_at(p, n);
  s.boxes[warp][lane] = candidate_box(p, image, pair.level, pair.better * kChunk + half * kHalf + lane);
  Box own[2];
#pragma unroll
  for (int h = 0; h < 2; h++) own[h] = candidate_box(p, image, pair.level, pair.tile * kChunk + lane + 32 * h);
  __syncwarp();
  uint32_t bits[2];
  overlap_bits(p.nms, s.boxes[warp], own, bits);
  // Halves of 64-bit words, the lower one first.
  auto* words = reinterpret_cast<uint32_t*>(p.overlaps + (static_cast<int64_t>(image) * p.pairs + n) * kChunk);
#pragma unroll
  for (int h = 0; h < 2; h++) words[2 * (lane + 32 * h) + half] = bits[h];
}

struct SettleShared {
  uint64_t stays[kMostTiles];
};

// A warp's tile: two boxes a lane.
struct Candidates {
  uint64_t earlier[2];  // better ones of the tile that overlap
  bool gone[2];
};
__device__ __forceinline__ Candidates load_candidates(const ProposeParams& p, int image, int level, int tile,
                                                      const uint64_t* words) {
  Candidates own;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int i = static_cast<int>(threadIdx.x % 32) + 32 * h;
    own.gone[h] = !is_finite(candidate_box(p, image, level, tile * kChunk + i));
    own.earlier[h] = words[tile * kChunk + 32 * h] & ((uint64_t{1} << i) - 1);
  }
  return own;
}

// What the warp's boxes have in common with those of kAhead better tiles; of others it may be anything.
using Words = uint64_t[kAhead][2];
__device__ __forceinline__ void load_words(const uint64_t* words, int first, int tile, Words& found) {
#pragma unroll
  for (int k = 0; k < kAhead; k++)
#pragma unroll
    for (int h = 0; h < 2; h++) found[k][h] = words[min(first + k, tile) * kChunk + 32 * h];
}

__device__ __forceinline__ uint64_t settle(const Candidates& own) {
  const unsigned low = __ballot_sync(~0u, own.gone[0]), high = __ballot_sync(~0u, own.gone[1]);
  return settle_own(own.earlier, low | static_cast<uint64_t>(high) << 32);
}

// Tile after tile, each by its own warp: what it tells is one word, and what that word does to the tiles behind it is
// two words a lane, which are there already.
__global__ void __launch_bounds__(32 * kMostTiles) propose_settle(const __grid_constant__ ProposeParams p) {
  HTC_SHARED(SettleShared, s);
  const int image = static_cast<int>(blockIdx.x), level = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const Share& share = p.share[level];
  const int tiles = ceil_div(share.wanted, kChunk), tile = min(warp, tiles - 1);
  if (tiles == 0) return;
  const int64_t pair = static_cast<int64_t>(image) * p.pairs + share.first_pair + pairs_below(tile);
  const uint64_t* words = p.overlaps + pair * kChunk + lane;
  Words some, next;
  load_words(words, 0, tile, next);
  Candidates own = load_candidates(p, image, level, tile, words);
  int kept = 0;
  for (int begin = 0; begin < tiles; begin += kAhead) {
#pragma unroll
    for (int k = 0; k < kAhead; k++) some[k][0] = next[k][0], some[k][1] = next[k][1];
    load_words(words, begin + kAhead, tile, next);
#pragma unroll
    for (int k = 0; k < kAhead; k++) {
      const int now = begin + k;
      if (now >= tiles) break;
      uint64_t stays = 0;
      if (warp == now) {
        stays = settle(own);
        if (lane == 0) s.stays[now] = stays;
      }
      __syncthreads();
      if (warp == now && lane == 0) {
        const int64_t at = static_cast<int64_t>(image) * p.tiles + share.first_tile + now;
        p.stays[at] = stays;
        p.kept_before[at] = kept;
      }
      if (warp <= now) continue;
      stays = s.stays[now];
      kept += __popcll(stays);
#pragma unroll
      for (int h = 0; h < 2; h++) own.gone[h] = own.gone[h] || (some[k][h] & stays) != 0;
    }
  }
}

// One of the results: the candidate `at`, or none.
__device__ __forceinline__ void write_proposal(const ProposeParams& p, int64_t to, bool valid, int64_t at) {
  p.op.valid[to] = valid;
  p.op.scores[to] = valid ? 1.0f / (1.0f + exponential(-p.logits[at])) : 0.0f;
  reinterpret_cast<Box*>(p.op.boxes)[to] = valid ? p.boxes[at] : Box{0.0f, 0.0f, 0.0f, 0.0f};
}

struct RankShared {
  uint64_t stays[kMostTiles * kProposalLevels];
  int before[kMostTiles * kProposalLevels];
  int places[kChunk];
  int total;
};

// Of a level's candidates, how many of the first `end` stay.
__device__ __forceinline__ int kept_of(const RankShared& s, const Share& share, int end) {
  if (end == 0) return 0;
  const int last = end - 1, tile = share.first_tile + last / kChunk;
  return s.before[tile] + __popcll(s.stays[tile] << (kChunk - 1 - last % kChunk));
}

// How many of a level's logits, which fall, are above this one, or as large where `ties` count.
__device__ __forceinline__ int count_above(const float* logits, int size, float own, bool ties) {
  int low = 0;
  for (int left = size; left > 0;) {
    const int step = left / 2;
    const float other = logits[low + step];
    const bool above = other > own || (ties && other == own);
    low = above ? low + step + 1 : low;
    left = above ? left - step - 1 : step;
  }
  return low;
}

__device__ __forceinline__ void load_ranks(const ProposeParams& p, RankShared& s, int image, float* logits) {
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first = static_cast<int64_t>(image) * p.candidates, first_tile = static_cast<int64_t>(image) * p.tiles;
  for (int i = thread; i < p.tiles; i += kRankThreads) {
    s.stays[i] = p.stays[first_tile + i];
    s.before[i] = p.kept_before[first_tile + i];
  }
#pragma unroll 8
  for (int i = thread; i < p.candidates; i += kRankThreads) logits[i] = p.logits[first + i];
  if (thread < kChunk) s.places[thread] = 0;
  if (thread == 0) s.total = 0;
}

__global__ void __launch_bounds__(kRankThreads) propose_rank(const __grid_constant__ ProposeParams p) {
  constexpr int kParts = kRankThreads / kChunk;  // threads that count for one box
  HTC_SHARED(RankShared, s);
  float* logits = dynamic_shared<float>();
  const int image = static_cast<int>(blockIdx.x) / p.tiles, tile = static_cast<int>(blockIdx.x) - image * p.tiles;
  const int thread = static_cast<int>(threadIdx.x), mine = thread % kChunk;
  load_ranks(p, s, image, logits);
  __syncthreads();
  int level = 0;
  while (level + 1 < p.op.levels && tile >= p.share[level + 1].first_tile) level++;
  const int in_level = (tile - p.share[level].first_tile) * kChunk + mine;
  const int in_image = p.share[level].first_candidate + in_level;
  const bool stays = (s.stays[tile] >> mine & 1) != 0;
  int place = 0;
  for (int other = thread / kChunk; stays && other < p.op.levels; other += kParts) {
    const Share& share = p.share[other];
    const float* theirs = logits + share.first_candidate;
    const int end = other == level ? in_level : count_above(theirs, share.wanted, logits[in_image], other < level);
    place += kept_of(s, share, end);
  }
  if (place > 0) atomicAdd(&s.places[mine], place);
  if (thread < p.op.levels) atomicAdd(&s.total, kept_of(s, p.share[thread], p.share[thread].wanted));
  __syncthreads();
  const int64_t out = image * p.op.limit, first = static_cast<int64_t>(image) * p.candidates;
  if (thread < kChunk && stays && s.places[mine] < p.op.limit)
    write_proposal(p, out + s.places[mine], true, first + in_image);
  for (int64_t i = s.total + tile * kRankThreads + thread; i < p.op.limit; i += kRankThreads * p.tiles)
    write_proposal(p, out + i, false, 0);
}

}  // namespace
}  // namespace htc::cuda
