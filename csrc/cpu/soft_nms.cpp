// Soft-NMS, lazily: a decayed score only falls, so a box's decays wait until it reaches the top of its class's heap.
// With max_output few boxes ever meet each other; without, the work is that of the textbook loop and the result the
// same.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/simd.h"
#include "geometry.h"
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

// Boxes side by side, with a vector's room behind the last; the room holds boxes that overlap nothing.
struct Picks {
  std::vector<float> x1, y1, x2, y2, area;
  int count = 0;

  void clear() {
    for (auto* one : {&x1, &y1, &x2, &y2, &area}) one->clear();
    count = 0;
  }
  void add(const float* box) {
    if (count % kWidth == 0) {
      const size_t room = static_cast<size_t>(count + kWidth);
      x1.resize(room, INFINITY), y1.resize(room, INFINITY);
      x2.resize(room, -INFINITY), y2.resize(room, -INFINITY), area.resize(room, 1.0f);
    }
    const size_t at = static_cast<size_t>(count++);
    x1[at] = box[0], y1[at] = box[1], x2[at] = box[2], y2[at] = box[3];
    area[at] = (box[2] - box[0]) * (box[3] - box[1]);
  }
};

// The score after every pick that the candidate has not met; stops early once it is below min_score. Few picks overlap
// the box: the others, a vector at a time, cost no division.
float catch_up(const SoftNms& op, const Picks& picks, const float* box, float score, int from) {
  const float area = (box[2] - box[0]) * (box[3] - box[1]);
  const Vec zero = {};
  for (int i = from / kWidth * kWidth; i < picks.count; i += kWidth) {
    const Vec width = smaller(load(&picks.x2[i]), box[2] + zero) - larger(load(&picks.x1[i]), box[0] + zero);
    const Vec height = smaller(load(&picks.y2[i]), box[3] + zero) - larger(load(&picks.y1[i]), box[1] + zero);
    const Vec together = larger(width, zero) * larger(height, zero);
    if (!any_above(together, zero)) continue;
    float shared[kWidth];
    store(shared, together);
    for (int lane = std::max(from - i, 0); lane < kWidth; ++lane) {
      if (!(shared[lane] > 0.0f)) continue;
      const float iou = shared[lane] / (picks.area[i + lane] + area - shared[lane]);
      if (op.gaussian) score *= exponential(-(iou * iou) / op.sigma);
      else if (iou >= op.iou_threshold) score *= 1.0f - iou;
    }
    if (!(score >= op.min_score)) return score;
  }
  return score;
}

// One class of one image, whose boxes are given: its candidates in `heap`, its picks appended to `out` in falling order
// of score. `picks` brings its memory from class to class.
void one_class(const SoftNms& op, const float* boxes, std::vector<Candidate>& heap, Picks& picks,
               std::vector<Candidate>& out) {
  picks.clear();
  std::make_heap(heap.begin(), heap.end(), worse);
  while (!heap.empty() && picks.count < op.max_output) {
    std::pop_heap(heap.begin(), heap.end(), worse);
    Candidate best = heap.back();
    heap.pop_back();
    if (best.met < picks.count) {
      best.score = catch_up(op, picks, boxes + 4 * best.box, best.score, best.met);
      best.met = picks.count;
      if (!(best.score >= op.min_score)) continue;
      heap.push_back(best);
      std::push_heap(heap.begin(), heap.end(), worse);
    } else {
      out.push_back(best);
      picks.add(boxes + 4 * best.box);
    }
  }
}

// The candidates of a class of an image, by index; then its picks.
struct Group {
  int64_t image;
  std::vector<Candidate> members, picks;
};

void append_groups(const SoftNms& op, int64_t image, std::vector<Group>& groups) {
  const float *boxes = op.boxes + 4 * op.count * image, *scores = op.scores + op.count * image;
  const int64_t* classes = op.classes + op.count * image;
  std::vector<int64_t> order;
  for (int64_t i = 0; i < op.count; ++i) {
    bool finite = std::isfinite(scores[i]);
    for (int side = 0; side < 4; ++side) finite = finite && std::isfinite(boxes[4 * i + side]);
    if (finite && scores[i] >= op.min_score) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return classes[a] < classes[b]; });
  for (size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || classes[order[i]] != classes[order[i - 1]]) groups.push_back({image, {}, {}});
    groups.back().members.push_back({scores[order[i]], order[i], 0});
  }
}

// The best of all groups' picks of an image.
void write_best(const SoftNms& op, int64_t image, std::vector<Candidate>& all) {
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return worse(b, a); });
  const int64_t kept = std::min<int64_t>(op.max_output, static_cast<int64_t>(all.size()));
  int64_t* indices = op.indices + op.max_output * image;
  float* decayed = op.decayed + op.max_output * image;
  for (int64_t i = 0; i < kept; ++i) {
    indices[i] = all[static_cast<size_t>(i)].box;
    decayed[i] = all[static_cast<size_t>(i)].score;
  }
  std::fill(indices + kept, indices + op.max_output, int64_t{-1});
  std::fill(decayed + kept, decayed + op.max_output, 0.0f);
  op.counts[image] = static_cast<int32_t>(kept);
}

}  // namespace

void soft_nms(const SoftNms& op, const Parallel& parallel) {
  std::vector<Group> groups;
  for (int64_t image = 0; image < op.images; ++image) append_groups(op, image, groups);
  const auto some = [&](int64_t begin, int64_t end) {
    Picks picks;
    for (int64_t i = begin; i < end; ++i) {
      Group& group = groups[static_cast<size_t>(i)];
      one_class(op, op.boxes + 4 * op.count * group.image, group.members, picks, group.picks);
    }
  };
  // Below some milliseconds a second thread that has to wait for a processor costs more than it brings.
  size_t pairs = 0;
  for (const Group& group : groups) pairs += group.members.size() * group.members.size();
  const int64_t count = static_cast<int64_t>(groups.size());
  if (pairs > 1'000'000) parallel(count, 1, some);
  else some(0, count);

  std::vector<Candidate> all;
  size_t next = 0;
  for (int64_t image = 0; image < op.images; ++image) {
    all.clear();
    for (; next < groups.size() && groups[next].image == image; ++next)
      all.insert(all.end(), groups[next].picks.begin(), groups[next].picks.end());
    write_best(op, image, all);
  }
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
