// encode_masks: the runs of ones of every mask, column by column, and nothing else: no mask of the image's size exists.
//   count_columns  a thread per column of a box: how many runs, and where in its block they go
//   place_blocks   one block: where every block's runs go
//   write_columns  the same walk again, writing
// A column is walked cell by cell: between two cells the value is a mix of both, so where both are clearly below or
// above the threshold no pixel needs a look.
#include <algorithm>

#include "cuda/block_scan.cuh"
#include "cuda/mask_lines.cuh"

namespace htc::cuda {
namespace {

constexpr int kThreads = 128;  // columns of a box per block
constexpr int kScanThreads = 1024;

struct EncodeParams {
  MaskParams mask;
  int64_t count, blocks;  // blocks per mask
  int64_t* block_starts;  // [K, blocks]
  int32_t* block_totals;  // [K, blocks]
  int32_t* before;        // [K, blocks, kThreads]: the runs of the block's columns left of this one
};

// starts[s]: the box's first row whose lower cell is s or later; [mask_h + 2], the last one is the number of rows.
__device__ __forceinline__ void find_cells(const MaskParams& p, const MaskPlace& place, uint32_t* starts) {
  const int64_t count = place.rows.end - place.rows.first;
  auto cell_of = [&](int64_t row) {
    return mask_point(place.rows.first + row, place.box.y1, place.box.y2, p.mask_h).cell;
  };
  for (int64_t row = threadIdx.x; row <= count; row += kThreads) {
    const int before = row == 0 ? -1 : cell_of(row - 1), cell = row == count ? p.mask_h + 1 : cell_of(row);
    for (int s = before + 1; s <= cell; s++) starts[s] = static_cast<uint32_t>(row);
  }
}

// Calls emit(begin, end) for every run of ones of a column, in rows of the box.
template <class Emit>
__device__ __forceinline__ void walk_column(const MaskParams& p, const MaskPlace& place, const float* mask,
                                            const uint32_t* starts, int64_t column, Emit emit) {
  // Beyond rounding: the mix of two values is never outside these by more.
  const float clearly_above = p.threshold + fabsf(p.threshold) * 1e-5f + 1e-30f;
  const float clearly_below = p.threshold - fabsf(p.threshold) * 1e-5f - 1e-30f;
  const MaskPoint across = mask_point(column, place.box.x1, place.box.x2, p.mask_w);
  bool inside = false;
  uint32_t begin = 0;
  auto turn = [&](bool now, uint32_t row) {
    if (now == inside) return;
    if (inside) emit(begin, row);
    begin = row;
    inside = now;
  };
  float a = 0.0f;
  for (int s = 0; s <= p.mask_h; s++) {
    const float b = column_value(p, mask, s + 1, across);
    const uint32_t first = starts[s], end = starts[s + 1];
    if (first < end) {
      const bool below = a < clearly_below && b<clearly_below, above = a> clearly_above && b > clearly_above;
      if (below || above) {
        turn(above, first);
      } else {
        for (uint32_t row = first; row < end; row++) {
          const MaskPoint at = mask_point(place.rows.first + row, place.box.y1, place.box.y2, p.mask_h);
          turn(a * at.lower + b * at.upper >= p.threshold, row);
        }
      }
    }
    a = b;
  }
  turn(false, starts[p.mask_h + 1]);
}

// The block's part of a mask; its column is this thread's.
struct Part {
  MaskPlace place;
  const float* mask;
  int64_t k, block, column;
};
__device__ __forceinline__ Part find_part(const EncodeParams& p) {
  Part part{place_mask(p.mask, blockIdx.x), nullptr, blockIdx.x, 0, 0};
  part.mask = p.mask.masks + part.k * p.mask.mask_h * p.mask.mask_w;
  part.block = part.k * p.blocks + blockIdx.y;
  part.column = part.place.columns.first + static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  return part;
}

__global__ void __launch_bounds__(kThreads) count_columns(const __grid_constant__ EncodeParams p) {
  HTC_SHARED(ScanShared<int32_t>, shared);
  const Part part = find_part(p);
  int32_t runs = 0;
  // The grid is made for boxes as wide as the image: most blocks have no column.
  const bool any = part.column - threadIdx.x < part.place.columns.end;
  if (any) {
    find_cells(p.mask, part.place, dynamic_shared<uint32_t>());
    __syncthreads();
    if (part.column < part.place.columns.end)
      walk_column(p.mask, part.place, part.mask, dynamic_shared<uint32_t>(), part.column,
                  [&](uint32_t, uint32_t) { runs++; });
  }
  const Prefix<int32_t> prefix = block_prefix(shared, runs);
  if (any) p.before[part.block * kThreads + threadIdx.x] = prefix.before;
  if (threadIdx.x == 0) p.block_totals[part.block] = prefix.total;
}

__global__ void __launch_bounds__(kScanThreads) place_blocks(const __grid_constant__ EncodeParams p, int64_t* offsets) {
  HTC_SHARED(ScanShared<int64_t>, shared);
  int64_t start = 0;
  const int64_t all = p.count * p.blocks;
  for (int64_t base = 0; base < all; base += kScanThreads) {
    const int64_t i = base + threadIdx.x;
    const Prefix<int64_t> prefix = block_prefix<int64_t>(shared, i < all ? p.block_totals[i] : 0);
    if (i < all) {
      p.block_starts[i] = start + prefix.before;
      if (i % p.blocks == 0) offsets[i / p.blocks] = start + prefix.before;
    }
    start += prefix.total;
  }
  if (threadIdx.x == 0) offsets[p.count] = start;
}

__global__ void __launch_bounds__(kThreads) write_columns(const __grid_constant__ EncodeParams p, uint2* runs) {
  const Part part = find_part(p);
  if (part.column - threadIdx.x >= part.place.columns.end) return;
  find_cells(p.mask, part.place, dynamic_shared<uint32_t>());
  __syncthreads();
  if (part.column >= part.place.columns.end) return;
  uint2* out = runs + p.block_starts[part.block] + p.before[part.block * kThreads + threadIdx.x];
  const auto origin = static_cast<uint32_t>(part.column * p.mask.height + part.place.rows.first);
  walk_column(p.mask, part.place, part.mask, dynamic_shared<uint32_t>(), part.column,
              [&](uint32_t begin, uint32_t end) { *out++ = make_uint2(origin + begin, origin + end); });
}

// One at least: an image without columns still has an offset per mask.
int64_t blocks_per_mask(const EncodeMasks& op) { return std::max<int64_t>(1, ceil_div<int64_t>(op.width, kThreads)); }

EncodeParams encode_params(const EncodeMasks& op, void* workspace) {
  EncodeParams p{mask_params(op), op.count, blocks_per_mask(op), nullptr, nullptr, nullptr};
  p.block_starts = static_cast<int64_t*>(workspace);
  p.block_totals = reinterpret_cast<int32_t*>(p.block_starts + p.count * p.blocks);
  p.before = p.block_totals + p.count * p.blocks;
  return p;
}

dim3 grid_of(const EncodeParams& p) { return {static_cast<unsigned>(p.count), static_cast<unsigned>(p.blocks)}; }
size_t shared_bytes(const EncodeParams& p) { return sizeof(uint32_t) * (static_cast<size_t>(p.mask.mask_h) + 2); }

}  // namespace

int64_t encode_masks_workspace(const EncodeMasks& op) {
  return op.count * blocks_per_mask(op) * (sizeof(int64_t) + sizeof(int32_t) * (1 + kThreads));
}

void count_runs(const EncodeMasks& op, void* workspace, int64_t* offsets, Stream stream) {
  const EncodeParams p = encode_params(op, workspace);
  launch("count_columns", count_columns, grid_of(p), kThreads, shared_bytes(p), stream, p);
  launch("place_blocks", place_blocks, 1, kScanThreads, 0, stream, p, offsets);
}

void write_runs(const EncodeMasks& op, const void* workspace, uint32_t* runs, Stream stream) {
  const EncodeParams p = encode_params(op, const_cast<void*>(workspace));
  launch("write_columns", write_columns, grid_of(p), kThreads, shared_bytes(p), stream, p,
         reinterpret_cast<uint2*>(runs));
}

}  // namespace htc::cuda
