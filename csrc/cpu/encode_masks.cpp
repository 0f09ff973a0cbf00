// encode_masks: COCO run lengths without the mask. Each column of the box is walked cell by cell: between two cells the
// value is a mix of both, so where both are clearly below or above the threshold no pixel needs a look.
#include <atomic>

#include "cpu/mask_lines.h"
#include "cpu/run_lengths.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// Pixels of one column from `from` to `to`, all between the cells of values a and b.
void walk(const MaskAxis& rows, size_t from, size_t to, float a, float b, float threshold, int64_t origin, Runs& runs) {
  bool inside = false;
  size_t begin = from;
  for (size_t j = from; j < to; ++j) {
    const bool above = a * rows.lower[j] + b * rows.upper[j] >= threshold;
    if (above && !inside) begin = j;
    if (!above && inside) runs.add(origin + static_cast<int64_t>(begin), origin + static_cast<int64_t>(j));
    inside = above;
  }
  if (inside) runs.add(origin + static_cast<int64_t>(begin), origin + static_cast<int64_t>(to));
}

// Pixels that lie between the same two cells, as [cell, first, end).
struct Segment {
  int cell;
  size_t first, end;
};

Runs runs_of(const EncodeMasks& op, int64_t k, MaskAxis& rows, MaskAxis& columns) {
  Runs runs;
  const Box box = box_of(op, k);
  columns.build(box.x1, box.x2, op.mask_w, op.width);
  rows.build(box.y1, box.y2, op.mask_h, op.height);
  std::vector<Segment> segments;
  for (size_t j = 0; j < rows.cell.size(); ++j) {
    if (segments.empty() || segments.back().cell != rows.cell[j]) segments.push_back({rows.cell[j], j, j});
    segments.back().end = j + 1;
  }
  // Beyond rounding: the mix of two values is never outside these by more.
  const float clearly_above = op.threshold + std::fabs(op.threshold) * 1e-5f + 1e-30f;
  const float clearly_below = op.threshold - std::fabs(op.threshold) * 1e-5f - 1e-30f;
  std::vector<float> column(static_cast<size_t>(op.mask_h) + 2, 0.0f);
  const float* mask = op.masks + k * op.mask_h * op.mask_w;
  const auto cell = [&](int r, int c) { return c >= 1 && c <= op.mask_w ? mask[r * op.mask_w + c - 1] : 0.0f; };
  for (size_t i = 0; i < columns.cell.size(); ++i) {
    const int c = columns.cell[i];
    for (int r = 0; r < op.mask_h; ++r)
      column[static_cast<size_t>(r) + 1] = cell(r, c) * columns.lower[i] + cell(r, c + 1) * columns.upper[i];
    const int64_t origin = (columns.range.first + static_cast<int64_t>(i)) * op.height + rows.range.first;
    for (const Segment& segment : segments) {
      const float a = column[static_cast<size_t>(segment.cell)], b = column[static_cast<size_t>(segment.cell) + 1];
      if (a < clearly_below && b < clearly_below) continue;
      if (a > clearly_above && b > clearly_above)
        runs.add(origin + static_cast<int64_t>(segment.first), origin + static_cast<int64_t>(segment.end));
      else walk(rows, segment.first, segment.end, a, b, op.threshold, origin, runs);
    }
  }
  return runs;
}

}  // namespace

void encode_masks(const EncodeMasks& op, const Parallel& parallel) {
  std::atomic<int64_t> next{0};
  parallel(op.count, 1, [&](int64_t, int64_t) {
    MaskAxis rows, columns;
    for (int64_t k; (k = next.fetch_add(1)) < op.count;)
      (*op.strings)[static_cast<size_t>(k)] = compress(runs_of(op, k, rows, columns), op.height * op.width);
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
