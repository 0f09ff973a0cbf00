// The last step of encode_masks where a GPU found the runs: joins those that meet between columns, writes the strings.
#include "cpu/run_lengths.h"
#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

void compress_runs(const CompressRuns& op, const Parallel& parallel) {
  parallel(op.count, 1, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      Runs runs;
      for (int64_t part = k * op.parts; part < (k + 1) * op.parts; ++part) {
        const uint32_t* run = op.runs + 2 * static_cast<int64_t>(op.places[2 * part]);
        for (uint32_t left = op.places[2 * part + 1]; left > 0; --left, run += 2) runs.add(run[0], run[1]);
      }
      (*op.strings)[static_cast<size_t>(k)] = compress(runs, op.pixels);
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
