// Boxes moved by the deltas of their best class, and clipped.
#include <cmath>

#include "cpu/rows.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// The first NaN, or else the first of the largest.
int64_t best_class(const float* logits, int64_t classes) {
  int64_t best = 0;
  for (int64_t c = 0; c < classes; ++c) {
    if (std::isnan(logits[c])) return c;
    if (logits[c] > logits[best]) best = c;
  }
  return best;
}

}  // namespace

void refine(const Refine& op, const Parallel& parallel) {
  const int64_t rows = op.moves.rows;
  parallel(op.moves.images * rows, 256, [&](int64_t begin, int64_t end) {
    std::vector<float> logits(static_cast<size_t>(op.classes));
    for (int64_t at = begin; at < end; ++at) {
      const int64_t image = at / rows, row = at % rows;
      int64_t label = !op.moves.by_class ? 0 : op.labels ? op.labels[at] : -1;
      if (label < 0) {
        read_row(op.logits, image, row, 0, op.classes, logits.data());
        label = best_class(logits.data(), op.classes);
      }
      const Box box = label < op.classes ? moved_box(op.moves, image, row, label) : Box{};
      const float sides[4] = {box.x1, box.y1, box.x2, box.y2};
      std::copy(sides, sides + 4, op.out + 4 * at);
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
