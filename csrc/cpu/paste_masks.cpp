// paste_masks: rows of the mask stretched to the box's width once, then every row of the image mixed from two of them.
#include <atomic>
#include <cstring>

#include "cpu/mask_lines.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

void paste_one(const PasteMasks& op, int64_t k, MaskAxis& rows, MaskAxis& columns, std::vector<float>& wide) {
  const Box box = box_of(op, k);
  columns.build(box.x1, box.x2, op.mask_w, op.width);
  rows.build(box.y1, box.y2, op.mask_h, op.height);
  const size_t count = columns.cell.size();
  if (count == 0 || rows.cell.empty()) return;
  wide.assign(static_cast<size_t>(op.mask_h + 2) * count, 0.0f);
  std::vector<float> line(static_cast<size_t>(op.mask_w) + 2, 0.0f);
  for (int r = 0; r < op.mask_h; ++r) {
    std::copy_n(op.masks + (k * op.mask_h + r) * op.mask_w, op.mask_w, line.begin() + 1);
    float* out = wide.data() + static_cast<size_t>(r + 1) * count;
    for (size_t i = 0; i < count; ++i)
      out[i] = line[columns.cell[i]] * columns.lower[i] + line[columns.cell[i] + 1] * columns.upper[i];
  }
  uint8_t* image = op.out + k * op.height * op.width + columns.range.first;
  for (size_t j = 0; j < rows.cell.size(); ++j) {
    const float* above = wide.data() + static_cast<size_t>(rows.cell[j]) * count;
    const float* below = above + count;
    const float lower = rows.lower[j], upper = rows.upper[j], threshold = op.threshold;
    uint8_t* out = image + (rows.range.first + static_cast<int64_t>(j)) * op.width;
    for (size_t i = 0; i < count; ++i) out[i] = above[i] * lower + below[i] * upper >= threshold;
  }
}

}  // namespace

void paste_masks(const PasteMasks& op, const Parallel& parallel) {
  std::atomic<int64_t> next{0};
  parallel(op.count, 1, [&](int64_t, int64_t) {
    MaskAxis rows, columns;
    std::vector<float> wide;
    for (int64_t k; (k = next.fetch_add(1)) < op.count;) {
      std::memset(op.out + k * op.height * op.width, 0, static_cast<size_t>(op.height * op.width));
      paste_one(op, k, rows, columns, wide);
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
