// The last step of encode_masks where a GPU found the runs: joins those that meet between columns, writes the strings.
#include "cpu/run_lengths.h"
#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

void compress_runs(const CompressRuns& op, const Parallel& parallel) {
  parallel(op.count, 1, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      Runs runs;
      for (int64_t i = op.offsets[k]; i < op.offsets[k + 1]; ++i) runs.add(op.runs[2 * i], op.runs[2 * i + 1]);
      (*op.strings)[static_cast<size_t>(k)] = compress(runs, op.pixels);
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
