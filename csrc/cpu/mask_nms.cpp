// Greedy suppression of run-length masks: each candidate meets only the kept ones of its class.
#include <unordered_map>

#include "cpu/run_overlap.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

void mask_nms(const MaskNms& op, const Parallel& parallel) {
  const std::vector<MaskShape> shapes = shapes_of(op.masks, parallel);
  struct Kept {
    std::vector<PixelBox> boxes;
    std::vector<const MaskShape*> shapes;
  };
  std::unordered_map<int64_t, Kept> classes;
  for (int64_t n = 0; n < op.candidates; ++n) {
    const int64_t k = op.order[n];
    const MaskShape& candidate = shapes[static_cast<size_t>(k)];
    Kept& kept = classes[op.classes == nullptr ? 0 : op.classes[k]];
    bool stays = true;
    for (size_t i = 0; i < kept.boxes.size() && stays; ++i) {
      const bool apart = kept.boxes[i].shared_with(candidate.box) == 0 && op.limit.threshold >= 0;
      stays = apart || !overlaps_more(candidate, *kept.shapes[i], op.limit);
    }
    if (!stays) continue;
    kept.boxes.push_back(candidate.box), kept.shapes.push_back(&candidate);
    op.kept->push_back(k);
  }
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
