// encode: the runs of ones of whole masks, which are read row by row, 32 columns at a time, and once. A thread keeps 64
// rows of a column as bits; what it tells are the places where the pixels turn, so that a run may begin in one thread's
// rows and end in another's. Only masks taller than a block has rows are read twice.
#include <algorithm>

#include "cuda/find_runs.cuh"
#include "masks.h"

namespace htc::cuda {
namespace {

constexpr int kColumns = 32, kWarps = 32, kWord = 64;  // kWord: rows in a word of bits

struct BitmapParams {
  const uint8_t* masks;         // [K, height, width]
  int64_t height, width, slab;  // slab: rows per thread, whole words
  Packet packet;
};

struct BitmapShared {
  ScanShared<int32_t> scan;
  unsigned long long first;
  int32_t turns[kColumns * kWarps];  // column by column, from above
};

// Rows [row, row + 64) of a column, or what there is of them.
__device__ __forceinline__ uint64_t load_word(const uint8_t* pixels, int64_t width, int64_t rows) {
  uint64_t word = 0;
  for (int part = 0; part < kWord && part < rows; part += 16) {
    uint32_t bits = 0;
#pragma unroll
    for (int row = 0; row < 16; row++)
      if (part + row < rows) bits |= static_cast<uint32_t>(pixels[(part + row) * width] != 0) << row;
    word |= static_cast<uint64_t>(bits) << part;
  }
  return word;
}

// Calls turn(rows, bits): 64 rows from that one, a bit where a pixel differs from the one above it.
template <class Turn>
__device__ __forceinline__ void find_turns(const BitmapParams& p, const uint8_t* column, PixelRange rows, Turn turn) {
  if (rows.first >= rows.end) return;
  uint64_t above = rows.first > 0 && column[(rows.first - 1) * p.width] != 0;
  for (int64_t row = rows.first; row < rows.end; row += kWord) {
    const uint64_t word = load_word(column + row * p.width, p.width, rows.end - row);
    turn(row, word ^ (word << 1 | above));
    above = word >> (kWord - 1);
  }
  // The image's end ends a run; where words reach beyond it, they have told so.
  if (rows.end == p.height && rows.end % kWord == 0 && above != 0) turn(rows.end, 1);
}

__global__ void __launch_bounds__(kColumns* kWarps, 1) find_runs_of_bitmap(const __grid_constant__ BitmapParams p) {
  HTC_SHARED(BitmapShared, s);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int warps = static_cast<int>(blockDim.x / 32), place = lane * warps + warp;
  const int64_t k = blockIdx.x, column = static_cast<int64_t>(blockIdx.y) * kColumns + lane;
  const PixelRange rows{warp * p.slab, column < p.width ? min((warp + 1) * p.slab, p.height) : 0};
  const uint8_t* pixels = p.masks + k * p.height * p.width + column;
  const bool once = p.slab == kWord;
  uint64_t kept = 0;
  bool closes = false;
  int32_t turns = 0;
  find_turns(p, pixels, rows, [&](int64_t row, uint64_t bits) {
    if (row == rows.first) kept = bits;
    else closes = true;
    turns += __popcll(bits);
  });
  s.turns[place] = turns;
  __syncthreads();
  const Prefix<int32_t> prefix = block_prefix(s.scan, s.turns[threadIdx.x]);
  s.turns[threadIdx.x] = prefix.before;
  if (threadIdx.x == 0) s.first = claim(p.packet, k, blockIdx.y, static_cast<uint32_t>(prefix.total / 2));
  __syncthreads();
  int64_t at = 2 * static_cast<int64_t>(s.first) + s.turns[place];
  const int64_t room = 2 * p.packet.room;
  if (turns == 0 || at >= room) return;
  auto* ends = reinterpret_cast<uint32_t*>(p.packet.runs);  // begin, end, begin, end
  const auto write = [&](int64_t row, uint64_t bits) {
    const int64_t origin = column * p.height + row;
    for (; bits != 0; bits &= bits - 1, at++)
      if (at < room) ends[at] = static_cast<uint32_t>(origin + __ffsll(static_cast<long long>(bits)) - 1);
  };
  if (!once) return find_turns(p, pixels, rows, write);
  write(rows.first, kept);
  if (closes) write(rows.end, 1);
}

}  // namespace

int64_t run_parts(const EncodeBitmaps& op) { return ceil_div<int64_t>(op.width, kColumns); }

void find_runs(const EncodeBitmaps& op, uint64_t* packet, int64_t room, Stream stream) {
  const int64_t parts = run_parts(op), words = ceil_div<int64_t>(op.height, kWord);
  const int64_t slab = std::max<int64_t>(ceil_div<int64_t>(words, kWarps), 1);
  const int64_t warps = std::max<int64_t>(ceil_div<int64_t>(words, slab), 1);
  const BitmapParams p{op.masks, op.height, op.width, slab * kWord, open_packet(packet, op.count, parts, room, stream)};
  const dim3 grid(static_cast<unsigned>(op.count), static_cast<unsigned>(parts));
  launch("find_runs_of_bitmap", find_runs_of_bitmap, grid, static_cast<unsigned>(32 * warps), 0, stream, p);
}

}  // namespace htc::cuda
