// Union and intersection of masks: of two by two, then of what came out, so that each run is read log K times.
#include <algorithm>

#include "cpu/run_lengths.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

Runs unite(const OneRuns& a, const OneRuns& b) {
  Runs out;
  out.ones.reserve(a.size() + b.size());
  for (size_t i = 0, j = 0; i < a.size() || j < b.size();) {
    const bool first = j == b.size() || (i < a.size() && a[i].first < b[j].first);
    const auto [begin, end] = first ? a[i++] : b[j++];
    if (!out.ones.empty() && begin <= out.ones.back().second)
      out.ones.back().second = std::max(out.ones.back().second, end);
    else out.ones.push_back({begin, end});
  }
  return out;
}

Runs intersect(const OneRuns& a, const OneRuns& b) {
  Runs out;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const int64_t begin = std::max(a[i].first, b[j].first), end = std::min(a[i].second, b[j].second);
    if (begin < end) out.add(begin, end);
    if (a[i].second < b[j].second) ++i;
    else ++j;
  }
  return out;
}

OneRuns merge(const MergeRuns& op, int64_t first, int64_t last) {
  if (last - first > 1) {
    const int64_t middle = (first + last) / 2;
    const OneRuns a = merge(op, first, middle), b = merge(op, middle, last);
    return (op.intersect ? intersect(a, b) : unite(a, b)).ones;
  }
  const auto* pairs = reinterpret_cast<const std::pair<int64_t, int64_t>*>(op.masks.runs);
  return {pairs + op.masks.offsets[first], pairs + op.masks.offsets[last]};
}

}  // namespace

void merge_runs(const MergeRuns& op, const Parallel&) { *op.merged = merge(op, 0, op.masks.count); }

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
