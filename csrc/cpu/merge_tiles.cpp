// Pieces of one object from overlapping tiles become one: the best grows by what it overlaps until nothing joins.
#include <unordered_map>

#include "cpu/run_lengths.h"
#include "cpu/run_overlap.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// Runs of what either mask has.
OneRuns united(RunSpan a, RunSpan b) {
  OneRuns out;
  out.reserve(a.size() + b.size());
  const Run *i = a.data(), *j = b.data(), *const end_a = i + a.size(), *const end_b = j + b.size();
  while (i < end_a || j < end_b) {
    const Run& next = j == end_b || (i < end_a && i->first < j->first) ? *i++ : *j++;
    if (!out.empty() && next.first <= out.back().second) out.back().second = std::max(out.back().second, next.second);
    else out.push_back(next);
  }
  return out;
}

struct Grower {
  const MergeTiles& op;
  const std::vector<MaskShape>& shapes;

  // `left` holds what of the leader's class has no group yet, best first, the leader at its head.
  OneRuns grow(std::vector<int64_t>& left, int64_t group) {
    const int64_t leader = left.front(), height = op.masks.sizes[0], width = op.masks.sizes[1];
    MaskShape grown = shapes[static_cast<size_t>(leader)];
    OneRuns runs(grown.runs.begin(), grown.runs.end());
    op.groups[leader] = group;
    left.erase(left.begin());
    for (bool grew = true; grew;) {
      grew = false;
      std::erase_if(left, [&](int64_t k) {
        const MaskShape& other = shapes[static_cast<size_t>(k)];
        if (!overlaps_more(grown, other, op.limit)) return false;
        runs = united(runs, other.runs);
        grown = {RunSpan(runs), height, width};
        op.groups[k] = group;
        return grew = true;
      });
    }
    return runs;
  }
};

}  // namespace

void merge_tiles(const MergeTiles& op, const Parallel& parallel) {
  const std::vector<MaskShape> shapes = shapes_of(op.masks, parallel);
  std::fill(op.groups, op.groups + op.masks.count, -1);
  std::unordered_map<int64_t, std::vector<int64_t>> left;
  const auto class_of = [&](int64_t k) { return op.classes == nullptr ? 0 : op.classes[k]; };
  for (int64_t n = 0; n < op.candidates; ++n) left[class_of(op.order[n])].push_back(op.order[n]);
  Grower grower{op, shapes};
  for (int64_t n = 0; n < op.candidates; ++n) {
    const int64_t k = op.order[n];
    if (op.groups[k] < 0) op.merged->push_back(grower.grow(left[class_of(k)], static_cast<int64_t>(op.merged->size())));
  }
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
