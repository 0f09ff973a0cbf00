// mask_iou: every warp turns 128 pixels at a time into four words of bits, then tiles of 32 x 32 pairs count what the
// words share. Which pixel is which bit does not matter, as long as it is the same for all masks.
#include <algorithm>

#include "cuda/launch.cuh"
#include "masks.h"

namespace htc::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kGroup = 128;            // pixels that a warp packs at once, four a lane
constexpr int kTile = 32, kSide = 16;  // masks of a tile; threads along it, two masks each
constexpr int kWords = 32;             // of a mask that a tile holds at once
constexpr int64_t kMostSlabs = 4096, kEnoughBlocks = 1024, kLeastWords = 1024;

__host__ __device__ inline int64_t words_of(int64_t pixels) { return ceil_div<int64_t>(pixels, kGroup) * 4; }

struct PackBits {
  int64_t pixels;
  const uint8_t* masks;
  uint32_t* bits;  // [K, words_of(pixels)]
  unsigned long long* areas;
};

__device__ __forceinline__ uint32_t four_pixels(const uint8_t* mask, int64_t first, int64_t pixels, bool aligned) {
  if (aligned && first + 4 <= pixels) return *reinterpret_cast<const uint32_t*>(mask + first);
  uint32_t four = 0;
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (first + i < pixels) four |= static_cast<uint32_t>(mask[first + i]) << (8 * i);
  return four;
}

__global__ void __launch_bounds__(kThreads) pack_mask_bits(const __grid_constant__ PackBits p) {
  const int64_t k = blockIdx.x, groups = ceil_div<int64_t>(p.pixels, kGroup);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const uint8_t* mask = p.masks + k * p.pixels;
  uint32_t* bits = p.bits + k * groups * 4;
  const bool aligned = reinterpret_cast<uintptr_t>(mask) % 4 == 0;
  uint32_t mine = 0;  // a lane's share of fewer than 2^32 pixels
  for (int64_t g = static_cast<int64_t>(blockIdx.y) * kWarps + warp; g < groups;
       g += static_cast<int64_t>(gridDim.y) * kWarps) {
    const uint32_t four = four_pixels(mask, g * kGroup + lane * 4, p.pixels, aligned);
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t votes = __ballot_sync(~0u, (four >> (8 * i) & 0xffu) != 0);
      if (lane == i) word = votes;
    }
    if (lane < 4) bits[g * 4 + lane] = word;
    mine += __popc(word);
  }
  mine = __reduce_add_sync(~0u, mine);
  if (lane == 0 && mine > 0) atomicAdd(p.areas + k, static_cast<unsigned long long>(mine));
}

struct CountBits {
  int64_t count_a, count_b, words, per_slice;
  const uint32_t *a, *b;
  unsigned long long* shared;  // [A, B], zeros before
};

struct CountTiles {
  uint32_t a[kTile][kWords + 1], b[kTile][kWords + 1];
};

__global__ void __launch_bounds__(kThreads) count_shared_bits(const __grid_constant__ CountBits p) {
  HTC_SHARED(CountTiles, tiles);
  const int64_t across = ceil_div<int64_t>(p.count_b, kTile);
  const int64_t i0 = static_cast<int64_t>(blockIdx.x) / across * kTile;
  const int64_t j0 = static_cast<int64_t>(blockIdx.x) % across * kTile;
  const int thread = static_cast<int>(threadIdx.x), tx = thread % kSide, ty = thread / kSide;
  const int word = thread % kWords, row = thread / kWords;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * p.per_slice, end = min(begin + p.per_slice, p.words);
  uint32_t sums[2][2] = {};
  for (int64_t from = begin; from < end; from += kWords) {
    const int64_t at = from + word;
    uint32_t any = 0;
#pragma unroll
    for (int m = row; m < kTile; m += kThreads / kWords) {
      const uint32_t one = at < end && i0 + m < p.count_a ? p.a[(i0 + m) * p.words + at] : 0;
      tiles.a[m][word] = one, any |= one;
      tiles.b[m][word] = at < end && j0 + m < p.count_b ? p.b[(j0 + m) * p.words + at] : 0;
    }
    if (__syncthreads_or(any != 0)) {
#pragma unroll 8
      for (int w = 0; w < kWords; w++) {
        const uint32_t a0 = tiles.a[ty][w], a1 = tiles.a[ty + kSide][w];
        const uint32_t b0 = tiles.b[tx][w], b1 = tiles.b[tx + kSide][w];
        sums[0][0] += __popc(a0 & b0), sums[0][1] += __popc(a0 & b1);
        sums[1][0] += __popc(a1 & b0), sums[1][1] += __popc(a1 & b1);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int64_t y = i0 + ty + i * kSide, x = j0 + tx + j * kSide;
      // Whole numbers: the order in which slices arrive does not matter.
      if (y < p.count_a && x < p.count_b && sums[i][j] > 0)
        atomicAdd(p.shared + y * p.count_b + x, static_cast<unsigned long long>(sums[i][j]));
    }
}

bool same_masks(const MaskIou& op) { return op.a == op.b && op.count_a == op.count_b; }

void pack(const uint8_t* masks, int64_t count, int64_t pixels, uint32_t* bits, int64_t* areas, Stream stream) {
  fill_zero(areas, static_cast<size_t>(count) * 8, stream);
  if (count == 0 || pixels == 0) return;
  const int64_t slabs = std::min(kMostSlabs, ceil_div<int64_t>(words_of(pixels) / 4, kWarps * 8));
  launch("pack_mask_bits", pack_mask_bits, dim3(static_cast<unsigned>(count), static_cast<unsigned>(slabs)),
         dim3(kThreads), 0, stream, {pixels, masks, bits, reinterpret_cast<unsigned long long*>(areas)});
}

}  // namespace

int64_t mask_iou_workspace(const MaskIou& op) {
  return 4 * words_of(op.pixels) * (op.count_a + (same_masks(op) ? 0 : op.count_b));
}

void mask_iou(const MaskIou& op, void* workspace, Stream stream) {
  const int64_t words = words_of(op.pixels);
  uint32_t* a = static_cast<uint32_t*>(workspace);
  uint32_t* b = same_masks(op) ? a : a + op.count_a * words;
  pack(op.a, op.count_a, op.pixels, a, op.area_a, stream);
  // Where both are the same masks, into the same bits once more: reading them is little, and areas are wanted twice.
  pack(op.b, op.count_b, op.pixels, b, op.area_b, stream);
  fill_zero(op.shared, static_cast<size_t>(op.count_a * op.count_b) * 8, stream);
  if (op.count_a == 0 || op.count_b == 0 || words == 0) return;
  const int64_t tiles = ceil_div<int64_t>(op.count_a, kTile) * ceil_div<int64_t>(op.count_b, kTile);
  const int64_t wanted = std::min(ceil_div(words, kLeastWords), std::max<int64_t>(1, kEnoughBlocks / tiles));
  const int64_t per_slice = ceil_div(ceil_div(words, wanted), int64_t{kWords}) * kWords;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(ceil_div(words, per_slice)));
  launch("count_shared_bits", count_shared_bits, grid, dim3(kThreads), 0, stream,
         {op.count_a, op.count_b, words, per_slice, a, b, reinterpret_cast<unsigned long long*>(op.shared)});
}

}  // namespace htc::cuda
