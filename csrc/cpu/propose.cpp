// Proposals: per (image, level) one pass over the logits that keeps the best so far, twice as many as wanted at most,
// and a bound that a logit must reach to be looked at; then boxes for those that were kept, and NMS as everywhere.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "cpu/simd.h"
#include "geometry.h"
#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

uint64_t sort_key(float logit, uint32_t index) {  // larger is better: ties go to the lower index
  logit += 0.0f;                                  // -0 and 0 tie
  uint32_t bits;
  std::memcpy(&bits, &logit, 4);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | static_cast<uint32_t>(~index);
}
float logit_of(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  const uint32_t bits = ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered;
  float logit;
  std::memcpy(&logit, &bits, 4);
  return logit;
}
int64_t index_of(uint64_t key) { return static_cast<uint32_t>(~key); }

// The best `wanted` of all that was offered.
struct Best {
  size_t wanted;
  float below = -INFINITY;  // what is not above it cannot be among them
  uint64_t bound = 0;
  std::vector<uint64_t> keys;

  explicit Best(size_t count) : wanted(count) { keys.reserve(2 * count); }
  void offer(float logit, int64_t index) {
    const uint64_t key = sort_key(logit, static_cast<uint32_t>(index));
    if (key < bound || !(logit < INFINITY)) return;
    keys.push_back(key);
    if (keys.size() < 2 * wanted) return;
    cut();
    bound = keys[wanted - 1];
    below = std::nextafter(logit_of(bound), -INFINITY);
  }
  void cut() {
    const auto last = keys.begin() + static_cast<int64_t>(wanted) - 1;
    std::nth_element(keys.begin(), last, keys.end(), std::greater<>());
    keys.resize(wanted);
  }
  void sort() {
    if (keys.size() > wanted) cut();
    std::sort(keys.begin(), keys.end(), std::greater<>());
  }
};

// One anchor's logits of one row; neighbours in the map are `step` apart in memory and A apart in number.
template <class T>
void scan_row(const T* row, int64_t step, int64_t width, int64_t index, int64_t anchors, Best& best) {
  int64_t x = 0;
  if (step == 1) {
    for (; x + kWidth <= width; x += kWidth) {
      if (!any_above(load(row + x), best.below + Vec{})) continue;
      for (int64_t i = x; i < x + kWidth; ++i)
        if (const float logit = to_float(row[i]); logit > best.below) best.offer(logit, index + i * anchors);
    }
  }
  for (; x < width; ++x)
    if (const float logit = to_float(row[x * step]); logit > best.below) best.offer(logit, index + x * anchors);
}

template <class T>
std::vector<uint64_t> best_logits(const Propose& op, const ProposalLevel& level, int64_t image, int64_t wanted) {
  const FeatureMap& map = level.objectness;
  const T* logits = static_cast<const T*>(map.data) + image * map.stride_n;
  Best best(static_cast<size_t>(wanted));
  for (int64_t y = 0; y < map.height && wanted > 0; ++y)
    for (int64_t a = 0; a < level.anchors; ++a)
      scan_row(logits + y * map.stride_h + a * map.stride_c, map.stride_w, map.width, y * map.width * level.anchors + a,
               level.anchors, best);
  best.sort();
  return best.keys;
}

// The clipped box of an anchor; NaN where there is none.
template <class T>
Box box_of(const Propose& op, const ProposalLevel& level, int64_t image, int64_t index) {
  const FeatureMap& map = level.deltas;
  const int64_t cell = index / level.anchors, a = index % level.anchors, y = cell / map.width, x = cell % map.width;
  const T* deltas = static_cast<const T*>(map.data) + image * map.stride_n + 4 * a * map.stride_c + y * map.stride_h +
                    x * map.stride_w;
  float moves[4];
  for (int j = 0; j < 4; ++j) moves[j] = to_float(deltas[j * map.stride_c]) * op.delta_std[j];
  float height, width;
  if (op.whole_sizes) {
    height = static_cast<float>(static_cast<const int64_t*>(op.image_sizes)[2 * image]);
    width = static_cast<float>(static_cast<const int64_t*>(op.image_sizes)[2 * image + 1]);
  } else {
    height = static_cast<const float*>(op.image_sizes)[2 * image];
    width = static_cast<const float*>(op.image_sizes)[2 * image + 1];
  }
  return proposal_box(op.anchors[level.first_anchor + a], static_cast<float>(x) * level.across,
                      static_cast<float>(y) * level.down, moves, height, width, op.min_size);
}

template <class T>
void run(const Propose& op, const Parallel& parallel) {
  int64_t first[kProposalLevels + 1] = {}, logits_per_image = 0;
  for (int l = 0; l < op.levels; ++l) {
    const FeatureMap& map = op.level[l].objectness;
    const int64_t size = op.level[l].anchors * map.height * map.width;
    first[l + 1] = first[l] + std::min(op.per_level, size);
    logits_per_image += size;
  }
  const int64_t count = first[op.levels];
  std::vector<float> boxes(static_cast<size_t>(4 * op.images * count), 0.0f);
  std::vector<float> logits(static_cast<size_t>(op.images * count), -INFINITY);
  std::vector<int64_t> levels(logits.size());
  std::atomic<int64_t> next{0};  // level by level: the largest first
  const auto some_tasks = [&](int64_t, int64_t) {
    for (int64_t task; (task = next.fetch_add(1)) < op.images * op.levels;) {
      const int64_t l = task / op.images, image = task % op.images;
      const ProposalLevel& level = op.level[l];
      const std::vector<uint64_t> best = best_logits<T>(op, level, image, first[l + 1] - first[l]);
      const size_t begin = static_cast<size_t>(image * count + first[l]);
      std::fill_n(levels.begin() + static_cast<int64_t>(begin), first[l + 1] - first[l], l);
      for (size_t i = 0; i < best.size(); ++i) {
        const Box box = box_of<T>(op, level, image, index_of(best[i]));
        if (!is_finite(box)) continue;
        std::memcpy(&boxes[4 * (begin + i)], &box, sizeof(box));
        logits[begin + i] = logit_of(best[i]);
      }
    }
  };
  // Below some 0.2 ms waking a second thread costs more than it brings, and on a busy machine a whole time slice.
  constexpr int64_t kFew = 50'000;
  if (op.images * logits_per_image > kFew) parallel(op.images * op.levels, 1, some_tasks);
  else some_tasks(0, 0);

  std::vector<int64_t> indices(static_cast<size_t>(op.images * op.limit));
  std::vector<int32_t> counts(static_cast<size_t>(op.images));
  batched_nms({op.images, count, boxes.data(), logits.data(), levels.data(), op.iou_threshold, true, -INFINITY,
               op.limit, indices.data(), counts.data()},
              parallel);
  for (int64_t i = 0; i < op.images * op.limit; ++i) {
    const int64_t index = indices[static_cast<size_t>(i)], at = i / op.limit * count + index;
    op.valid[i] = index >= 0;
    op.scores[i] = index >= 0 ? 1.0f / (1.0f + exponential(-logits[static_cast<size_t>(at)])) : 0.0f;
    for (int j = 0; j < 4; ++j) op.boxes[4 * i + j] = index >= 0 ? boxes[static_cast<size_t>(4 * at + j)] : 0.0f;
  }
}

}  // namespace

void propose(const Propose& op, const Parallel& parallel) {
  if (op.images == 0) return;
  switch (op.dtype) {
    case DType::f16: return run<f16>(op, parallel);
    case DType::bf16: return run<bf16>(op, parallel);
    default: return run<float>(op, parallel);
  }
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
