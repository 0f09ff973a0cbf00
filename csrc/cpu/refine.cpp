// Boxes moved by the deltas of their best class, and clipped.
#include <algorithm>
#include <cmath>

#include "cpu/rows.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// The first NaN, or else the first of the largest. There is room for a vector behind the last logit.
int64_t best_class(float* logits, int64_t classes) {
  std::fill(logits + classes, logits + classes + kWidth, -INFINITY);
  Vec most = load(logits), strange = {};
  for (int64_t c = 0; c < classes; c += kWidth) {
    const Vec some = load(logits + c);
    most = larger(most, some);
    strange += static_cast<Vec>(some != some);  // NaN where a logit is
  }
  float largest = most[0], any = strange[0];
  for (int j = 1; j < kWidth; ++j) largest = most[j] > largest ? most[j] : largest, any += strange[j];
  int64_t best = 0;
  while (std::isnan(any) ? !std::isnan(logits[best]) : logits[best] != largest) ++best;
  return best;
}

}  // namespace

void refine(const Refine& op, const Parallel& parallel) {
  const int64_t rows = op.moves.rows;
  parallel(op.moves.images * rows, 256, [&](int64_t begin, int64_t end) {
    std::vector<float> logits(static_cast<size_t>(op.classes + kWidth));
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
