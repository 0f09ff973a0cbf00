// decode: whole masks from runs. A thread owns 64 rows of a column: it looks up the runs that come near them, keeps the
// pixels as bits, and writes them row by row, 32 columns side by side. Every pixel is written once.
#include "cuda/launch.cuh"
#include "masks.h"

namespace htc::cuda {
namespace {

constexpr int kColumns = 32, kWarps = 8, kWord = 64;  // kWord: rows in a word of bits

__device__ __forceinline__ uint64_t ones_below(int64_t bit) {
  return bit >= kWord ? ~uint64_t{0} : (uint64_t{1} << bit) - 1;
}

// Pixels [begin, end) of mask k, at most 64, as bits.
__device__ __forceinline__ uint64_t read_pixels(const DecodeRuns& p, int64_t k, int64_t begin, int64_t end) {
  int64_t at = p.masks.offsets[k];
  const int64_t behind = p.masks.offsets[k + 1];
  for (int64_t high = behind; at < high;) {  // the first run that ends behind `begin`
    const int64_t middle = at + (high - at) / 2;
    if (p.masks.runs[2 * middle + 1] <= begin) at = middle + 1;
    else high = middle;
  }
  uint64_t bits = 0;
  for (; at < behind; at++) {
    const int64_t from = max(p.masks.runs[2 * at], begin), to = min(p.masks.runs[2 * at + 1], end);
    if (from >= end) break;
    bits |= ones_below(to - begin) & ~ones_below(from - begin);
  }
  return bits;
}

__global__ void __launch_bounds__(kColumns* kWarps) decode_columns(const __grid_constant__ DecodeRuns p) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t k = blockIdx.x, column = static_cast<int64_t>(blockIdx.y) * kColumns + lane;
  const int64_t row = (static_cast<int64_t>(blockIdx.z) * kWarps + warp) * kWord;
  if (row >= p.height || column >= p.width) return;
  const int rows = static_cast<int>(min(p.height - row, static_cast<int64_t>(kWord)));
  const int64_t begin = column * p.height + row;
  const uint64_t bits = read_pixels(p, k, begin, begin + rows);
  uint8_t* out = p.out + (k * p.height + row) * p.width + column;
  for (int i = 0; i < rows; i++, out += p.width) *out = static_cast<uint8_t>(bits >> i & 1);
}

}  // namespace

void decode_runs(const DecodeRuns& op, Stream stream) {
  const dim3 grid(static_cast<unsigned>(op.masks.count), static_cast<unsigned>(ceil_div<int64_t>(op.width, kColumns)),
                  static_cast<unsigned>(ceil_div<int64_t>(op.height, kWarps * kWord)));
  launch("decode_columns", decode_columns, grid, kColumns * kWarps, 0, stream, op);
}

}  // namespace htc::cuda
