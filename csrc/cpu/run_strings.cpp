// COCO's strings to runs of ones and back.
#include <span>

#include "cpu/run_lengths.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

constexpr int kMostDigits = 12;  // of a count: 60 bits
enum Fault : uint8_t { kNone, kLetter, kNegative, kLength };

Fault read(const char* text, const char* end, int64_t pixels, Runs& runs) {
  int64_t before[2] = {0, 0}, at = 0, number = 0;
  for (; text < end; ++number) {
    int64_t x = 0, digit = 0;
    int digits = 0;
    do {
      if (text == end || digits == kMostDigits) return kLetter;
      digit = static_cast<int64_t>(*text++) - 48;
      if (digit < 0 || digit > 63) return kLetter;
      x |= (digit & 0x1f) << (5 * digits++);
    } while (digit & 0x20);
    if (digit & 0x10) x |= -(int64_t{1} << (5 * digits));
    const int64_t count = number > 2 ? x + before[number & 1] : x;
    before[number & 1] = count;
    if (count < 0) return kNegative;
    if (count > pixels - at) return kLength;
    if (number & 1 && count > 0) runs.add(at, at + count);
    at += count;
  }
  return at == pixels ? kNone : kLength;
}

}  // namespace

void read_runs(const ReadRuns& op, const Parallel& parallel) {
  parallel(op.count, 16, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      Runs runs;
      // Three letters a run is what most masks have.
      runs.ones.reserve(static_cast<size_t>(op.offsets[k + 1] - op.offsets[k]) / 3 + 1);
      op.faults[k] =
          read(op.text + op.offsets[k], op.text + op.offsets[k + 1], op.sizes[2 * k] * op.sizes[2 * k + 1], runs);
      if (op.faults[k] == kNone) op.runs[k] = std::move(runs.ones);
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
