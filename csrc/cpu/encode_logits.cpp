// encode_logits: COCO run lengths of resized maps, without the resized maps.
#include <atomic>

#include "cpu/logit_lines.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

void encode_logits(const EncodeLogits& op, const Parallel& parallel) {
  std::atomic<int64_t> next{0};
  parallel(op.count, 1, [&](int64_t, int64_t) {
    LogitLines lines(op.crop, op.height, op.width, op.threshold);
    const CellAxis &across = lines.across(), &down = lines.down();
    std::vector<float> turned(static_cast<size_t>(across.count * lines.stride()));
    Runs runs;
    for (int64_t k; (k = next.fetch_add(1)) < op.count;) {
      const float* map = op.logits + (k * op.map_h + down.first) * op.map_w + across.first;
      for (int c = 0; c < across.count; ++c) {
        float* column = turned.data() + c * lines.stride();
        for (int r = 0; r < down.count; ++r) column[r] = map[static_cast<int64_t>(r) * op.map_w + c];
        lines.fill(column);
      }
      runs.ones.clear();
      lines.walk(turned.data(), 0, op.width, 0, op.height, runs);
      op.strings[k] = compress(runs, op.height * op.width);
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
