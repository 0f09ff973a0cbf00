// encode_masks: the runs of ones of every mask, column by column, and nothing else: no mask of the image's size exists.
// A block takes the columns of a part of a box, a thread each: it walks them once to count their runs, asks for so much
// room, and walks them again to write. Parts come to lie in any order; the host reads them in theirs.
// A column is walked cell by cell: between two cells the value is a mix of both, so where both are clearly below or
// above the threshold no pixel needs a look.
#include "cuda/block_scan.cuh"
#include "cuda/mask_lines.cuh"

namespace htc::cuda {
namespace {

constexpr int kThreads = 128;  // columns of a box per block

struct EncodeParams {
  MaskParams mask;
  int64_t count, parts, room;
  unsigned long long* total;
  uint2* places;  // [K, parts]: the first run, how many
  uint2* runs;    // [room]
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

struct FindShared {
  ScanShared<int32_t> scan;
  unsigned long long first;
};

__global__ void __launch_bounds__(kThreads) find_runs_of_part(const __grid_constant__ EncodeParams p) {
  HTC_SHARED(FindShared, s);
  const int64_t k = blockIdx.x;
  const MaskPlace place = place_mask(p.mask, k);
  const int64_t left = place.columns.first + static_cast<int64_t>(blockIdx.y) * kThreads, column = left + threadIdx.x;
  // The grid is made for boxes as wide as the image: most blocks have no column.
  if (left >= place.columns.end) return;
  const bool inside = column < place.columns.end;
  const float* mask = p.mask.masks + k * p.mask.mask_h * p.mask.mask_w;
  uint32_t* starts = dynamic_shared<uint32_t>();
  find_cells(p.mask, place, starts);
  __syncthreads();
  int32_t runs = 0;
  if (inside) walk_column(p.mask, place, mask, starts, column, [&](uint32_t, uint32_t) { runs++; });
  const Prefix<int32_t> prefix = block_prefix(s.scan, runs);
  if (threadIdx.x == 0) {
    s.first = atomicAdd(p.total, static_cast<unsigned long long>(prefix.total));
    p.places[k * p.parts + blockIdx.y] =
        make_uint2(static_cast<unsigned>(s.first), static_cast<unsigned>(prefix.total));
  }
  __syncthreads();
  int64_t at = static_cast<int64_t>(s.first) + prefix.before;
  if (runs == 0 || at >= p.room) return;
  const auto origin = static_cast<uint32_t>(column * p.mask.height + place.rows.first);
  walk_column(p.mask, place, mask, starts, column, [&](uint32_t begin, uint32_t end) {
    if (at < p.room) p.runs[at] = make_uint2(origin + begin, origin + end);
    at++;
  });
}

}  // namespace

int64_t run_parts(const EncodeMasks& op) { return ceil_div<int64_t>(op.width, kThreads); }

void find_runs(const EncodeMasks& op, uint64_t* packet, int64_t room, Stream stream) {
  EncodeParams p{mask_params(op), op.count, run_parts(op), room, nullptr, nullptr, nullptr};
  p.total = reinterpret_cast<unsigned long long*>(packet);
  p.places = reinterpret_cast<uint2*>(packet + 1);
  p.runs = p.places + p.count * p.parts;
  fill_zero(packet, sizeof(uint64_t) * static_cast<size_t>(1 + p.count * p.parts), stream);
  const dim3 grid(static_cast<unsigned>(p.count), static_cast<unsigned>(p.parts));
  const size_t shared = sizeof(uint32_t) * (static_cast<size_t>(p.mask.mask_h) + 2);
  launch("find_runs", find_runs_of_part, grid, kThreads, shared, stream, p);
}

}  // namespace htc::cuda
