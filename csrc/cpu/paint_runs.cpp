// place_runs, paint_runs: from run lengths to index maps. Runs lie column by column, maps row by row: a band of columns
// is painted as runs lie and then turned, so that neither is far from the cache.
#include <algorithm>
#include <cstring>
#include <utility>

#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

using Pair = std::pair<int64_t, int64_t>;
constexpr int64_t kColumns = 64;  // of a band
constexpr int64_t kRows = 32;     // of it that are turned at a time

const Pair* pairs_of(const RunMasks& masks) { return reinterpret_cast<const Pair*>(masks.runs); }

// A bit per pixel, in the order of runs.
class Taken {
 public:
  explicit Taken(int64_t pixels) : words_(static_cast<size_t>(pixels / 64 + 1)) {}

  bool any(const Pair* run, const Pair* end) const {
    for (; run < end; ++run) {
      const auto [first, last, head, tail] = parts(*run);
      if (first == last) {
        if (words_[first] & head & tail) return true;
        continue;
      }
      uint64_t found = (words_[first] & head) | (words_[last] & tail);
      for (size_t i = first + 1; i < last; ++i) found |= words_[i];
      if (found) return true;
    }
    return false;
  }

  void add(const Pair* run, const Pair* end) {
    for (; run < end; ++run) {
      const auto [first, last, head, tail] = parts(*run);
      if (first == last) {
        words_[first] |= head & tail;
        continue;
      }
      words_[first] |= head;
      std::fill(words_.begin() + static_cast<int64_t>(first) + 1, words_.begin() + static_cast<int64_t>(last),
                ~uint64_t{0});
      words_[last] |= tail;
    }
  }

 private:
  struct Parts {
    size_t first, last;
    uint64_t head, tail;
  };
  static Parts parts(const Pair& run) {
    const int64_t last = run.second - 1;
    return {static_cast<size_t>(run.first / 64), static_cast<size_t>(last / 64), ~uint64_t{0} << (run.first % 64),
            ~uint64_t{0} >> (63 - last % 64)};
  }

  std::vector<uint64_t> words_;
};

// One map: bands of columns, each with the runs that reach into it. `cursors` remember where each mask's runs go on.
template <class T>
void paint_map(const PaintRuns& op, int64_t map, const std::vector<int64_t>& chosen, std::vector<T>& band) {
  const Pair* runs = pairs_of(op.masks);
  std::vector<int64_t> cursors;
  for (const int64_t i : chosen) cursors.push_back(op.masks.offsets[op.order[i]]);
  T* out = static_cast<T*>(op.out) + map * op.height * op.width;
  for (int64_t left = 0; left < op.width; left += kColumns) {
    const int64_t columns = std::min(kColumns, op.width - left);
    const int64_t begin = left * op.height, end = begin + columns * op.height;
    std::fill(band.begin(), band.begin() + columns * op.height, static_cast<T>(op.fill));
    for (size_t j = 0; j < chosen.size(); ++j) {
      const int64_t stop = op.masks.offsets[op.order[chosen[j]] + 1];
      const T value = static_cast<T>(op.values[chosen[j]]);
      for (int64_t& at = cursors[j]; at < stop && runs[at].first < end; ++at) {
        std::fill(band.begin() + std::max(runs[at].first - begin, int64_t{0}),
                  band.begin() + (std::min(runs[at].second, end) - begin), value);
        if (runs[at].second > end) break;
      }
    }
    for (int64_t top = 0; top < op.height; top += kRows) {
      const int64_t bottom = std::min(top + kRows, op.height);
      for (int64_t y = top; y < bottom; ++y) {
        T* row = out + y * op.width + left;
        for (int64_t x = 0; x < columns; ++x) row[x] = band[static_cast<size_t>(x * op.height + y)];
      }
    }
  }
}

template <class T>
void paint(const PaintRuns& op, const Parallel& parallel) {
  std::vector<std::vector<int64_t>> chosen(static_cast<size_t>(op.maps));
  for (int64_t i = 0; i < op.count; ++i) chosen[static_cast<size_t>(op.layers[i])].push_back(i);
  parallel(op.maps, 1, [&](int64_t first, int64_t last) {
    std::vector<T> band(static_cast<size_t>(kColumns * op.height));
    for (int64_t map = first; map < last; ++map) paint_map(op, map, chosen[static_cast<size_t>(map)], band);
  });
}

}  // namespace

void place_runs(const PlaceRuns& op, const Parallel&) {
  const Pair* runs = pairs_of(op.masks);
  std::vector<Taken> taken;
  for (int64_t k = 0; k < op.masks.count; ++k) {
    const Pair *first = runs + op.masks.offsets[k], *last = runs + op.masks.offsets[k + 1];
    size_t layer = 0;
    while (first < last && layer < taken.size() && taken[layer].any(first, last)) ++layer;
    if (first < last && layer == taken.size()) taken.emplace_back(op.masks.sizes[2 * k] * op.masks.sizes[2 * k + 1]);
    if (first < last) taken[layer].add(first, last);
    op.layers[k] = static_cast<int64_t>(layer);
  }
}

void paint_runs(const PaintRuns& op, const Parallel& parallel) {
  if (op.bytes == 1) paint<uint8_t>(op, parallel);
  else if (op.bytes == 2) paint<int16_t>(op, parallel);
  else paint<int32_t>(op, parallel);
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
