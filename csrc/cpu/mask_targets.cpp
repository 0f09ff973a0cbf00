// mask_targets: RoIAlign of one object's bitmap, which is never made: a line of the index map becomes zeros and ones
// where the RoI reads it. A row of bins is summed side by side, each bin's pixels in the order in which RoIAlign has
// them, so that means of about one half fall on the same side.
#include <algorithm>
#include <atomic>
#include <limits>

#include "cpu/roi_taps.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

template <class T>
struct Worker {
  const MaskTargets& op;
  AxisTaps<float> rows, columns;
  std::vector<int> places;               // [pixels of a bin, bins], from the first pixel that is read
  std::vector<float> weights, sum, hit;  // of the places; [bins]; [pixels that are read]

  explicit Worker(const MaskTargets& op) : op(op), sum(static_cast<size_t>(op.size)) {}

  // The index map of a RoI; none where it has no object.
  const T* map(int64_t k) const {
    const float image = op.rois[k * 5];
    const int64_t layer = op.layer[k], number = op.number[k];
    const bool there = image >= 0.0f && image < static_cast<float>(op.images) && layer >= 0 && layer < op.layers;
    if (!there || number < 1 || number > std::numeric_limits<T>::max()) return nullptr;
    const int64_t index = static_cast<int64_t>(image) * op.layers + layer;
    return static_cast<const T*>(op.maps) + index * op.height * op.width;
  }

  // The columns' taps, turned so that bins lie side by side. Those of shorter bins weigh nothing.
  int turn() {
    int most = 0;
    for (const BinTaps& bin : columns.bins) most = std::max(most, bin.count);
    const size_t bins = columns.bins.size();
    places.assign(static_cast<size_t>(most) * bins, 0);
    weights.assign(static_cast<size_t>(most) * bins, 0.0f);
    for (size_t b = 0; b < bins; ++b)
      for (int x = 0; x < columns.bins[b].count; ++x) {
        const size_t at = static_cast<size_t>(x) * bins + b;
        places[at] = columns.bins[b].first + x - columns.first;
        weights[at] = columns.of(columns.bins[b])[x];
      }
    return most;
  }

  // Whether a line has a pixel of the object among those that are read.
  bool find(const T* line, T number) {
    int found = 0;
    for (size_t x = 0; x < hit.size(); ++x) {
      const bool same = line[x] == number;
      hit[x] = same ? 1.0f : 0.0f;
      found |= same;
    }
    return found != 0;
  }

  void run(int64_t k, float* out) {
    const size_t bins = static_cast<size_t>(op.size);
    std::fill(out, out + bins * bins, 0.0f);
    const float* roi = op.rois + k * 5;
    const Box box{roi[1], roi[2], roi[3], roi[4]};
    const T* own = map(k);
    if (own == nullptr || !is_finite(box)) return;
    rows.build(roi_extent(box.y1, box.y2, 1.0f, true), op.height, op.size, op.size, 0);
    columns.build(roi_extent(box.x1, box.x2, 1.0f, true), op.width, op.size, op.size, 0);
    if (rows.end <= rows.first || columns.end <= columns.first) return;
    hit.resize(static_cast<size_t>(columns.end - columns.first));
    const int most = turn();
    const T number = static_cast<T>(op.number[k]);
    for (const BinTaps& row : rows.bins) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int y = 0; y < row.count; ++y) {
        if (!find(own + static_cast<int64_t>(row.first + y) * op.width + columns.first, number)) continue;
        const float down = rows.of(row)[y];
        const int* place = places.data();
        const float* across = weights.data();
        for (int x = 0; x < most; ++x, place += bins, across += bins)
          for (size_t b = 0; b < bins; ++b) sum[b] += down * across[b] * hit[static_cast<size_t>(place[b])];
      }
      for (size_t b = 0; b < bins; ++b) out[b] = sum[b] >= 0.5f ? 1.0f : 0.0f;
      out += bins;
    }
  }
};

template <class T>
void all(const MaskTargets& op, const Parallel& parallel) {
  std::atomic<int64_t> next{0};
  constexpr int64_t kBatch = 4;
  parallel((op.count + kBatch - 1) / kBatch, 1, [&](int64_t, int64_t) {
    Worker<T> worker(op);
    for (int64_t begin; (begin = next.fetch_add(kBatch)) < op.count;)
      for (int64_t k = begin; k < std::min(begin + kBatch, op.count); ++k)
        worker.run(k, op.out + k * op.size * op.size);
  });
}

}  // namespace

void mask_targets(const MaskTargets& op, const Parallel& parallel) {
  op.narrow ? all<int16_t>(op, parallel) : all<int32_t>(op, parallel);
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
