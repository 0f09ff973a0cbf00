// NMS: candidates in order of score, each met by the kept boxes of its class, a vector of them at a time. A division is
// made only where a cheap bound says that the overlap may reach the threshold, so decisions are those of plain IoU.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <unordered_map>
#include <vector>

#include "cpu/simd.h"
#include "geometry.h"
#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// Boxes side by side, with a vector's room behind the last; the room holds boxes that overlap nothing.
struct Kept {
  std::vector<float> x1, y1, x2, y2, area;
  int64_t count = 0;

  void add(Box box, float size) {
    if (count % kWidth == 0) {
      const size_t room = static_cast<size_t>(count + kWidth);
      x1.resize(room, INFINITY), y1.resize(room, INFINITY);
      x2.resize(room, -INFINITY), y2.resize(room, -INFINITY), area.resize(room, 1.0f);
    }
    const size_t at = static_cast<size_t>(count++);
    x1[at] = box.x1, y1[at] = box.y1, x2[at] = box.x2, y2[at] = box.y2, area[at] = size;
  }
};

struct Threshold {
  float exact;  // the largest float not above the threshold: IoU > threshold means IoU > exact
  float bound;  // below it by more than rounding

  explicit Threshold(double value) {
    exact = static_cast<float>(value);
    if (static_cast<double>(exact) > value) exact = std::nextafter(exact, -INFINITY);
    bound = value > 0 ? exact * (1.0f - 1e-5f) : -INFINITY;
  }
};

inline float area_of(Box b) { return (b.x2 - b.x1) * (b.y2 - b.y1); }

// Whether any of the kept boxes from `from` on overlaps the box by more than the threshold.
bool suppressed(const Kept& kept, int64_t from, Box box, float area, Threshold threshold) {
  for (int64_t i = from / kWidth * kWidth; i < kept.count; i += kWidth) {
    const Vec zero = {};
    const Vec width =
        larger(smaller(load(&kept.x2[i]), box.x2 + zero) - larger(load(&kept.x1[i]), box.x1 + zero), zero);
    const Vec height =
        larger(smaller(load(&kept.y2[i]), box.y2 + zero) - larger(load(&kept.y1[i]), box.y1 + zero), zero);
    const Vec shared = width * height;
    const Vec together = (load(&kept.area[i]) + area) - shared;
    // With a threshold of 0 or less the bound says nothing (0 * infinity), and every pair is divided.
    if (threshold.bound > 0 && !any_above(shared, together * threshold.bound)) continue;
    if (any_above(shared / together, threshold.exact + zero)) {
      if (threshold.exact >= 0) return true;
      // A negative threshold also matches the padding behind the last box, so look box by box.
      const Vec overlap = shared / together;
      for (int64_t j = 0; j < kWidth && i + j < kept.count; ++j)
        if (overlap[j] > threshold.exact) return true;
    }
  }
  return false;
}

struct Entry {
  uint32_t key;  // smaller is better
  uint32_t index;
};

uint32_t sort_key(float score) {
  score += 0.0f;  // -0 and 0 tie
  uint32_t bits;
  std::memcpy(&bits, &score, 4);
  return ~(bits & 0x80000000u ? ~bits : bits | 0x80000000u);
}

// Best score first, ties by index.
void sort_entries(std::vector<Entry>& entries) {
  if (entries.size() < 1024) {
    std::sort(entries.begin(), entries.end(),
              [](Entry a, Entry b) { return a.key < b.key || (a.key == b.key && a.index < b.index); });
    return;
  }
  // Entries come by index and the radix sort is stable.
  std::vector<Entry> other(entries.size());
  for (int shift = 0; shift < 33; shift += 11) {
    uint32_t starts[2049] = {};
    for (const Entry& entry : entries) ++starts[(entry.key >> shift & 2047u) + 1];
    for (int digit = 0; digit < 2048; ++digit) starts[digit + 1] += starts[digit];
    for (const Entry& entry : entries) other[starts[entry.key >> shift & 2047u]++] = entry;
    entries.swap(other);
  }
}

// The candidates of one image, best first.
std::vector<Entry> candidates(const BatchedNms& op, int64_t image) {
  const float* boxes = op.boxes + 4 * op.count * image;
  const float* scores = op.scores + op.count * image;
  std::vector<Entry> entries;
  for (int64_t i = 0; i < op.count; ++i) {
    if (std::isnan(scores[i]) || (op.has_score_threshold && !(scores[i] > op.score_threshold))) continue;
    const Box box{boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
    if (is_finite(box)) entries.push_back({sort_key(scores[i]), static_cast<uint32_t>(i)});
  }
  sort_entries(entries);
  return entries;
}

// Classes as 0, 1, 2, ... in order of appearance.
struct Classes {
  const int64_t* of;
  int64_t lowest = 0;
  std::vector<int32_t> table;
  std::unordered_map<int64_t, int32_t> map;
  int32_t count = 0;
  bool dense = true;

  Classes(const int64_t* classes, const std::vector<Entry>& entries) : of(classes) {
    if (of == nullptr || entries.empty()) return;
    int64_t highest = lowest = of[entries[0].index];
    for (const Entry& entry : entries) {
      lowest = std::min(lowest, of[entry.index]);
      highest = std::max(highest, of[entry.index]);
    }
    const uint64_t span = static_cast<uint64_t>(highest) - static_cast<uint64_t>(lowest);
    dense = span < 4 * entries.size() + 1024;
    if (dense) table.assign(static_cast<size_t>(span) + 1, -1);
  }
  int32_t operator()(uint32_t index) {
    if (of == nullptr) return count = 1, 0;
    int32_t& known = dense ? table[static_cast<size_t>(of[index] - lowest)] : map.emplace(of[index], -1).first->second;
    if (known < 0) known = count++;
    return known;
  }
};

Box box_at(const float* boxes, uint32_t index) {
  const float* box = boxes + 4 * static_cast<int64_t>(index);
  return {box[0], box[1], box[2], box[3]};
}

// In order of score over all classes, until enough are kept.
void until_enough(const BatchedNms& op, int64_t image, const std::vector<Entry>& entries) {
  const Threshold threshold(op.iou_threshold);
  const float* boxes = op.boxes + 4 * op.count * image;
  int64_t* out = op.indices + op.max_output * image;
  Classes classes(op.classes ? op.classes + op.count * image : nullptr, entries);
  std::vector<Kept> kept;
  int64_t count = 0;
  for (size_t i = 0; i < entries.size() && count < op.max_output; ++i) {
    const size_t own = static_cast<size_t>(classes(entries[i].index));
    if (own >= kept.size()) kept.resize(own + 1);
    const Box box = box_at(boxes, entries[i].index);
    const float area = area_of(box);
    if (suppressed(kept[own], 0, box, area, threshold)) continue;
    kept[own].add(box, area);
    out[count++] = entries[i].index;
  }
  std::fill(out + count, out + op.max_output, int64_t{-1});
  op.counts[image] = static_cast<int32_t>(count);
}

// One class, its members (positions in `entries`) best first; survivors are marked.
void one_class(const float* boxes, const std::vector<Entry>& entries, const uint32_t* members, int64_t size,
               Threshold threshold, std::vector<uint8_t>& marks, const Parallel* parallel) {
  constexpr int64_t kBlock = 1024;
  Kept kept;
  std::vector<uint8_t> gone(kBlock);
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, size);
    // First all of the block against what is kept so far, side by side; then among themselves, in order.
    const auto meet = [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const Box box = box_at(boxes, entries[members[begin + i]].index);
        gone[static_cast<size_t>(i)] = suppressed(kept, 0, box, area_of(box), threshold);
      }
    };
    if (parallel) (*parallel)(end - begin, 64, meet);
    else meet(0, end - begin);
    const int64_t before = kept.count;
    for (int64_t i = begin; i < end; ++i) {
      if (gone[static_cast<size_t>(i - begin)]) continue;
      const Box box = box_at(boxes, entries[members[i]].index);
      if (suppressed(kept, before, box, area_of(box), threshold)) continue;
      kept.add(box, area_of(box));
      marks[members[i]] = 1;
    }
  }
}

// Every survivor is wanted: classes side by side, the members of a large class too.
void all_of_them(const BatchedNms& op, const std::vector<Entry>& entries, const Parallel& parallel) {
  const Threshold threshold(op.iou_threshold);
  Classes classes(op.classes, entries);
  std::vector<int32_t> own(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) own[i] = classes(entries[i].index);
  std::vector<int64_t> starts(static_cast<size_t>(classes.count) + 1, 0);
  for (int32_t one : own) ++starts[static_cast<size_t>(one) + 1];
  for (size_t c = 1; c < starts.size(); ++c) starts[c] += starts[c - 1];
  std::vector<uint32_t> members(entries.size());
  std::vector<int64_t> at(starts);
  for (size_t i = 0; i < own.size(); ++i)
    members[static_cast<size_t>(at[static_cast<size_t>(own[i])]++)] = static_cast<uint32_t>(i);

  constexpr int64_t kLarge = 4096;
  std::vector<uint8_t> marks(entries.size(), 0);
  std::atomic<int64_t> next{0};
  const auto small_ones = [&](int64_t, int64_t) {
    for (int64_t c; (c = next.fetch_add(1)) < classes.count;)
      if (starts[c + 1] - starts[c] <= kLarge)
        one_class(op.boxes, entries, members.data() + starts[c], starts[c + 1] - starts[c], threshold, marks, nullptr);
  };
  // Overlaps to look at, a vector at a time. Below some 0.1 ms waking a second thread costs more than it brings, and on
  // a busy machine a whole time slice.
  int64_t steps = 0;
  for (int64_t c = 0; c < classes.count; ++c)
    steps += (starts[c + 1] - starts[c]) * (starts[c + 1] - starts[c]) / kWidth;
  if (classes.count > 1 && steps > 100'000) parallel(classes.count, 1, small_ones);
  else small_ones(0, 0);
  for (int64_t c = 0; c < classes.count; ++c)
    if (starts[c + 1] - starts[c] > kLarge)
      one_class(op.boxes, entries, members.data() + starts[c], starts[c + 1] - starts[c], threshold, marks, &parallel);
  int64_t count = 0;
  for (size_t i = 0; i < entries.size(); ++i)
    if (marks[i]) op.indices[count++] = entries[i].index;
  op.counts[0] = static_cast<int32_t>(count);
}

}  // namespace

void batched_nms(const BatchedNms& op, const Parallel& parallel) {
  if (op.images == 1 && op.max_output >= op.count && !op.has_score_threshold) {
    return all_of_them(op, candidates(op, 0), parallel);
  }
  parallel(op.images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) until_enough(op, image, candidates(op, image));
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
