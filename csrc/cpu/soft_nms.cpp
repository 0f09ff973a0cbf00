// Soft-NMS, lazily: a decayed score only falls, so a box's decays wait until it reaches the top of its class's heap.
// With max_output few boxes ever meet each other; without, the work is that of the textbook loop and the result the
// same.
#include <algorithm>
#include <cmath>
#include <vector>

#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

struct Candidate {
  float score;
  int64_t box;
  int32_t met;  // how many picks have already decayed it
};

// The heap's order: best score first, ties to the lower index.
bool worse(const Candidate& a, const Candidate& b) {
  return a.score < b.score || (a.score == b.score && a.box > b.box);
}

struct Picks {
  std::vector<float> x1, y1, x2, y2, area;
  void add(const float* box) {
    x1.push_back(box[0]);
    y1.push_back(box[1]);
    x2.push_back(box[2]);
    y2.push_back(box[3]);
    area.push_back((box[2] - box[0]) * (box[3] - box[1]));
  }
};

constexpr int kBlock = 64;

// The score after every pick that the candidate has not met; stops early once it is below min_score.
float catch_up(const SoftNms& op, const Picks& picks, const float* box, float score, int from) {
  const float area = (box[2] - box[0]) * (box[3] - box[1]);
  const float threshold = op.iou_threshold, sigma = op.sigma;
  float factor[kBlock];
  for (int begin = from, count = static_cast<int>(picks.area.size()); begin < count; begin += kBlock) {
    const int size = std::min(kBlock, count - begin);
    for (int i = 0; i < size; ++i) {
      const int p = begin + i;
      const float width = std::max(std::min(picks.x2[p], box[2]) - std::max(picks.x1[p], box[0]), 0.0f);
      const float height = std::max(std::min(picks.y2[p], box[3]) - std::max(picks.y1[p], box[1]), 0.0f);
      const float shared = width * height;
      const float iou = shared > 0 ? shared / (picks.area[p] + area - shared) : 0.0f;
      factor[i] = op.gaussian ? iou : (iou >= threshold ? 1.0f - iou : 1.0f);
    }
    if (op.gaussian)
      for (int i = 0; i < size; ++i) factor[i] = std::exp(-(factor[i] * factor[i]) / sigma);
    for (int i = 0; i < size; ++i) score *= factor[i];
    if (!(score >= op.min_score)) return score;
  }
  return score;
}

// One class: its candidates in `heap`, its picks appended to `out` in falling order of score.
void one_class(const SoftNms& op, std::vector<Candidate>& heap, std::vector<Candidate>& out) {
  Picks picks;
  std::make_heap(heap.begin(), heap.end(), worse);
  while (!heap.empty() && static_cast<int64_t>(picks.area.size()) < op.max_output) {
    std::pop_heap(heap.begin(), heap.end(), worse);
    Candidate best = heap.back();
    heap.pop_back();
    const int32_t count = static_cast<int32_t>(picks.area.size());
    if (best.met < count) {
      best.score = catch_up(op, picks, op.boxes + 4 * best.box, best.score, best.met);
      best.met = count;
      if (!(best.score >= op.min_score)) continue;
      heap.push_back(best);
      std::push_heap(heap.begin(), heap.end(), worse);
    } else {
      out.push_back(best);
      picks.add(op.boxes + 4 * best.box);
    }
  }
}

}  // namespace

void soft_nms(const SoftNms& op, const Parallel& parallel) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < op.count; ++i) {
    const float* box = op.boxes + 4 * i;
    bool finite = std::isfinite(op.scores[i]);
    for (int side = 0; side < 4; ++side) finite = finite && std::isfinite(box[side]);
    if (finite && op.scores[i] >= op.min_score) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return op.classes[a] < op.classes[b]; });
  std::vector<size_t> starts;
  for (size_t i = 0; i < order.size(); ++i)
    if (i == 0 || op.classes[order[i]] != op.classes[order[i - 1]]) starts.push_back(i);
  starts.push_back(order.size());

  const int64_t groups = static_cast<int64_t>(starts.size()) - 1;
  std::vector<std::vector<Candidate>> kept(groups);
  auto some = [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      std::vector<Candidate> heap;
      for (size_t i = starts[group]; i < starts[group + 1]; ++i) heap.push_back({op.scores[order[i]], order[i], 0});
      one_class(op, heap, kept[group]);
    }
  };
  // Below some milliseconds a second thread that has to wait for a processor costs more than it brings.
  int64_t pairs = 0;
  for (int64_t group = 0; group < groups; ++group)
    pairs += static_cast<int64_t>((starts[group + 1] - starts[group]) * (starts[group + 1] - starts[group]));
  if (pairs > 1'000'000) parallel(groups, 1, some);
  else some(0, groups);

  std::vector<Candidate> all;
  for (const auto& group : kept) all.insert(all.end(), group.begin(), group.end());
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return worse(b, a); });
  *op.kept = std::min<int64_t>(op.max_output, static_cast<int64_t>(all.size()));
  for (int64_t i = 0; i < *op.kept; ++i) {
    op.indices[i] = all[i].box;
    op.decayed[i] = all[i].score;
  }
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
