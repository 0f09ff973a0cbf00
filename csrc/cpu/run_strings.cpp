// COCO's strings to runs of ones and back.
#include <span>

#include "cpu/run_lengths.h"
#include "cpu/run_reader.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

void read_runs(const ReadRuns& op, const Parallel& parallel) {
  parallel(op.count, 16, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      // A run takes two letters at least.
      OneRuns runs(static_cast<size_t>(op.offsets[k + 1] - op.offsets[k]) / 2 + 1);
      auto* next = runs.data();
      const auto add = [&, first = runs.data()](int64_t begin, int64_t end) {
        if (next != first && next[-1].second == begin) next[-1].second = end;
        else *next++ = {begin, end};
      };
      op.faults[k] =
          read_counts(op.text + op.offsets[k], op.text + op.offsets[k + 1], op.sizes[2 * k] * op.sizes[2 * k + 1], add);
      runs.resize(op.faults[k] == kNone ? static_cast<size_t>(next - runs.data()) : 0);
      op.runs[k] = std::move(runs);
    }
  });
}

void write_runs(const WriteRuns& op, const Parallel& parallel) {
  const auto* pairs = reinterpret_cast<const std::pair<int64_t, int64_t>*>(op.masks.runs);
  parallel(op.masks.count, 16, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k)
      op.strings[k] = compress(std::span(pairs + op.masks.offsets[k], pairs + op.masks.offsets[k + 1]),
                               op.masks.sizes[2 * k] * op.masks.sizes[2 * k + 1]);
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
