// paste_masks: the image is cleared at the memory's full rate, then only the boxes are written. A thread owns a column
// of a tile and goes down its rows: the two cells above and below change only every few pixels.
#include "cuda/mask_lines.cuh"

namespace htc::cuda {
namespace {

constexpr int kThreads = 128, kRows = 64;  // the tile

struct PasteParams {
  MaskParams mask;
  uint8_t* out;  // [K, H, W]
};

struct PasteShared {
  MaskPoint rows[kRows];
};

__global__ void __launch_bounds__(kThreads) paste_boxes(const __grid_constant__ PasteParams p) {
  HTC_SHARED(PasteShared, shared);
  const int64_t k = blockIdx.x;
  const MaskPlace place = place_mask(p.mask, k);
  const int64_t column = place.columns.first + static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  const int64_t first_row = place.rows.first + static_cast<int64_t>(blockIdx.z) * kRows;
  const int count = static_cast<int>(min(place.rows.end - first_row, static_cast<int64_t>(kRows)));
  // The grid is made for boxes as large as the image: most blocks have nothing to do.
  if (count <= 0 || column - threadIdx.x >= place.columns.end) return;
  if (static_cast<int>(threadIdx.x) < count)
    shared.rows[threadIdx.x] = mask_point(first_row + threadIdx.x, place.box.y1, place.box.y2, p.mask.mask_h);
  __syncthreads();
  if (column >= place.columns.end) return;
  const float* mask = p.mask.masks + k * p.mask.mask_h * p.mask.mask_w;
  const MaskPoint across = mask_point(column, place.box.x1, place.box.x2, p.mask.mask_w);
  uint8_t* out = p.out + (k * p.mask.height + first_row) * p.mask.width + column;
  int cell = -1;
  float above = 0.0f, below = 0.0f;
  for (int i = 0; i < count; i++, out += p.mask.width) {
    const MaskPoint row = shared.rows[i];
    if (row.cell != cell) {
      above = row.cell == cell + 1 ? below : column_value(p.mask, mask, row.cell, across);
      below = column_value(p.mask, mask, row.cell + 1, across);
      cell = row.cell;
    }
    *out = above * row.lower + below * row.upper >= p.mask.threshold;
  }
}

}  // namespace

void paste_masks(const PasteMasks& op, Stream stream) {
  if (op.count == 0 || op.height == 0 || op.width == 0) return;
  fill_zero(op.out, static_cast<size_t>(op.count * op.height * op.width), stream);
  const dim3 grid(static_cast<unsigned>(op.count), static_cast<unsigned>(ceil_div<int64_t>(op.width, kThreads)),
                  static_cast<unsigned>(ceil_div<int64_t>(op.height, kRows)));
  launch("paste_boxes", paste_boxes, grid, kThreads, 0, stream, PasteParams{mask_params(op), op.out});
}

}  // namespace htc::cuda
