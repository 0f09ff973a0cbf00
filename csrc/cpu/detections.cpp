// Detections: the softmax of one row of the stages' logits after the other. Of the scores only the best thousand or two
// are remembered, which raises the threshold for all that follow; boxes are moved, and NMS made, for those alone. Only
// where that leaves fewer than are wanted, more are remembered.
#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "cpu/rows.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

constexpr int64_t kLanes = 32;  // sums are made in as many parts as the GPU makes them, for the same bits
constexpr int64_t kRowsAtOnce = 32;

// The best of the scores of some rows, as keys: the score's bits, then its row and class turned over, so that of equal
// scores the first is the largest. At least `most` of them, if there are as many.
struct Best {
  int64_t most = 0;
  float threshold = 0;  // what does not exceed it is not among them
  bool all = true;      // nothing was forgotten
  std::vector<uint64_t> keys;

  // Scores come in order: one that is equal to the worst comes too late.
  void add(float score, int64_t index) {
    uint32_t bits;
    std::memcpy(&bits, &score, 4);
    keys.push_back(static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(~index));
    if (static_cast<int64_t>(keys.size()) >= 2 * most) forget();
  }
  void forget() {
    if (static_cast<int64_t>(keys.size()) <= most) return;
    std::nth_element(keys.begin(), keys.begin() + most - 1, keys.end(), std::greater<>());
    keys.resize(static_cast<size_t>(most));
    threshold = score_of(keys.back());
    all = false;
  }
  static float score_of(uint64_t key) {
    const auto bits = static_cast<uint32_t>(key >> 32);
    float score;
    std::memcpy(&score, &bits, 4);
    return score;
  }
  static int64_t index_of(uint64_t key) { return static_cast<uint32_t>(~static_cast<uint32_t>(key)); }
};

// The sum of the parts, in the order in which the lanes of a warp exchange them.
float sum_of(const Vec (&parts)[kLanes / kWidth]) {
  float sums[kLanes];
  for (int64_t j = 0; j < kLanes / kWidth; ++j) store(sums + j * kWidth, parts[j]);
  for (int64_t step = kLanes / 2; step > 0; step /= 2)
    for (int64_t i = 0; i < step; ++i) sums[i] += sums[i + step];
  return sums[0];
}

// One row after the other; the memory is kept. Rows are padded to whole warps with -infinity, which weighs nothing.
class Scores {
 public:
  explicit Scores(const Detect& op)
      : op_(op),
        columns_(op.classes + 1),
        padded_((columns_ + kLanes - 1) / kLanes * kLanes),
        softmaxes_(op.average_logits ? 1 : op.stages),
        values_(static_cast<size_t>(op.stages * padded_)) {}

  // Every class' score [classes], or nothing where none can exceed e^bound: e^(x - largest x) is no less.
  const float* operator()(int64_t image, int64_t row, float bound) {
    for (int s = 0; s < op_.stages; ++s) {
      read_row(op_.logits[s], image, row, 0, columns_, values(s));
      std::fill(values(s) + columns_, values(s) + padded_, -INFINITY);
    }
    if (op_.average_logits) average();
    float most[kMaxStages];
    bool hopeless = true;
    for (int s = 0; s < softmaxes_; ++s) {
      float& background = values(s)[op_.classes];
      const float own = std::exchange(background, -INFINITY), foreground = largest(values(s));
      background = own;
      most[s] = own > foreground ? own : foreground;
      hopeless = hopeless && foreground - most[s] < bound;
    }
    if (hopeless) return nullptr;
    for (int s = 0; s < softmaxes_; ++s) softmax(values(s), most[s]);
    if (!op_.average_logits) average();
    return values(0);
  }

 private:
  float* values(int stage) { return values_.data() + stage * padded_; }

  float largest(const float* row) const {
    Vec most = load(row);
    for (int64_t i = kWidth; i < padded_; i += kWidth) most = larger(most, load(row + i));
    float found = most[0];
    for (int j = 1; j < kWidth; ++j) found = most[j] > found ? most[j] : found;
    return found;
  }

  void average() {
    if (op_.stages == 1) return;
    for (int64_t i = 0; i < padded_; i += kWidth) {
      Vec sum = load(values(0) + i);
      for (int s = 1; s < op_.stages; ++s) sum += load(values(s) + i);
      store(values(0) + i, sum / static_cast<float>(op_.stages));
    }
  }

  void softmax(float* row, float most) const {
    Vec parts[kLanes / kWidth] = {};
    for (int64_t i = 0; i < padded_; i += kLanes)
      for (int64_t j = 0; j < kLanes / kWidth; ++j) {
        const Vec power = exponential(load(row + i + j * kWidth) - most);
        store(row + i + j * kWidth, power);
        parts[j] += power;
      }
    const float sum = sum_of(parts);
    for (int64_t i = 0; i < padded_; i += kWidth) store(row + i, load(row + i) / sum);
  }

  const Detect& op_;
  int64_t columns_, padded_;
  int softmaxes_;
  std::vector<float> values_;  // [stages, padded]
};

// By more than rounding below the threshold's logarithm.
float bound_of(float threshold) { return threshold > 0 ? std::log(threshold) - 1e-3f : -INFINITY; }

void find(const Detect& op, int64_t image, int64_t begin, int64_t end, Scores& scores, Best& best) {
  float threshold = best.threshold, bound = bound_of(threshold);
  for (int64_t row = begin; row < end; ++row) {
    if (op.valid && !op.valid[image * op.moves.rows + row]) continue;
    const float* score = scores(image, row, bound);
    if (!score) continue;
    for (int64_t first = 0; first < op.classes; first += kWidth) {
      if (!any_above(load(score + first), best.threshold - Vec{})) continue;
      for (int64_t c = first; c < std::min(first + kWidth, op.classes); ++c)
        if (score[c] > best.threshold) best.add(score[c], row * op.classes + c);
    }
    if (best.threshold > threshold) threshold = best.threshold, bound = bound_of(threshold);
  }
}

// What NMS leaves of one image's best, written out; whether more of them would change it.
bool write(const Detect& op, int64_t image, const Best& best, const Parallel& parallel) {
  const int64_t most = op.max_output, count = static_cast<int64_t>(best.keys.size());
  std::vector<float> boxes, scores;
  std::vector<int64_t> labels, indices(static_cast<size_t>(most));
  for (uint64_t key : best.keys) {
    const int64_t index = Best::index_of(key), label = index % op.classes;
    const Box box = moved_box(op.moves, image, index / op.classes, op.moves.by_class ? label : 0);
    boxes.insert(boxes.end(), {box.x1, box.y1, box.x2, box.y2});
    scores.push_back(Best::score_of(key));
    labels.push_back(label);
  }
  int32_t kept = 0;
  BatchedNms nms{};
  nms.images = 1;
  nms.count = count;
  nms.boxes = boxes.data();
  nms.scores = scores.data();
  nms.classes = labels.data();
  nms.iou_threshold = op.iou_threshold;
  nms.has_score_threshold = true;
  nms.score_threshold = op.score_threshold;
  nms.max_output = most;
  nms.indices = indices.data();
  nms.counts = &kept;
  batched_nms(nms, parallel);
  if (kept < most && !best.all) return true;
  float* out = op.boxes + 4 * most * image;
  for (int64_t i = 0; i < most; ++i) {
    const bool real = i < kept;
    const size_t from = real ? static_cast<size_t>(indices[static_cast<size_t>(i)]) : 0;
    for (size_t side = 0; side < 4; ++side) out[4 * i + static_cast<int64_t>(side)] = real ? boxes[4 * from + side] : 0;
    op.scores[most * image + i] = real ? scores[from] : 0.0f;
    op.labels[most * image + i] = real ? labels[from] : -1;
  }
  op.counts[image] = kept;
  return false;
}

void one_image(const Detect& op, int64_t image, const Parallel& parallel) {
  const int64_t pieces = (op.moves.rows + kRowsAtOnce - 1) / kRowsAtOnce;
  for (int64_t most = std::max<int64_t>(1024, 16 * op.max_output);; most *= 8) {
    const Best none{most, op.score_threshold, true, {}};
    std::vector<Best> parts(static_cast<size_t>(pieces), none);
    parallel(pieces, 4, [&](int64_t begin, int64_t end) {
      Scores scores(op);
      find(op, image, begin * kRowsAtOnce, std::min(end * kRowsAtOnce, op.moves.rows), scores,
           parts[static_cast<size_t>(begin)]);
    });
    Best best = none;
    for (Best& part : parts) {
      best.keys.insert(best.keys.end(), part.keys.begin(), part.keys.end());
      best.all = best.all && part.all;
    }
    best.forget();
    std::sort(best.keys.begin(), best.keys.end(), std::greater<>());
    if (!write(op, image, best, parallel)) return;
  }
}

}  // namespace

void detections(const Detect& op, const Parallel& parallel) {
  for (int64_t image = 0; image < op.moves.images; ++image) one_image(op, image, parallel);
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
