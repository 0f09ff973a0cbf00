// What moves whole columns and rows of masks: a column of the result is one of the mask's, its runs moved by a table.
#include <algorithm>
#include <atomic>

#include "cpu/run_lengths.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

using Pairs = const std::pair<int64_t, int64_t>*;

// starts[x]: the first run that ends behind the beginning of column x.
void find_columns(Pairs runs, size_t count, int64_t height, std::vector<size_t>& starts) {
  size_t i = 0;
  for (size_t x = 0; x < starts.size(); ++x) {
    while (i < count && runs[i].second <= static_cast<int64_t>(x) * height) ++i;
    starts[x] = i;
  }
}

Runs transform(const TransformRuns& op, Pairs runs, size_t count, std::vector<size_t>& starts) {
  Runs out;
  if (count == 0) return out;
  const int64_t height = op.height;
  const bool reversed = op.rows[height] < op.rows[0];
  find_columns(runs, count, height, starts);
  for (int64_t x = 0; x < op.out_width; ++x) {
    const int64_t column = op.columns[x];
    if (column < 0) continue;
    const int64_t origin = column * height, target = x * op.out_height;
    const size_t first = starts[static_cast<size_t>(column)];
    size_t end = first;
    while (end < count && runs[end].first < origin + height) ++end;
    for (size_t i = first; i < end; ++i) {
      const auto [begin, stop] = runs[reversed ? first + end - 1 - i : i];
      const int64_t a = op.rows[std::max<int64_t>(begin - origin, 0)], b = op.rows[std::min(stop - origin, height)];
      if (a != b) out.add(target + std::min(a, b), target + std::max(a, b));
    }
  }
  return out;
}

}  // namespace

void transform_runs(const TransformRuns& op, const Parallel& parallel) {
  std::atomic<int64_t> next{0};
  parallel(op.masks.count, 1, [&](int64_t, int64_t) {
    std::vector<size_t> starts(static_cast<size_t>(op.width));
    for (int64_t k; (k = next.fetch_add(1)) < op.masks.count;) {
      const int64_t first = op.masks.offsets[k], count = op.masks.offsets[k + 1] - first;
      const auto* pairs = reinterpret_cast<Pairs>(op.masks.runs) + first;
      op.runs[k] = transform(op, pairs, static_cast<size_t>(count), starts).ones;
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
