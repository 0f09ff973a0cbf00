// decode: whole masks from runs. A strip of 64 columns is filled a word of 64 pixels at a time, and blocks of 64 × 64
// that are not empty are turned into rows and written.
#include <algorithm>
#include <atomic>

#include "cpu/bit_blocks.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// Rows [top, bottom) of one mask.
class Band {
 public:
  Band(const DecodeRuns& op, int64_t top, int64_t bottom)
      : op_(op), top_(top), bottom_(bottom), words_((bottom - top + kBlock - 1) / kBlock) {
    columns_.assign(static_cast<size_t>(kBlock * words_), 0);
    dirty_.assign(static_cast<size_t>(words_), 0);
  }

  void write(int64_t k) {
    uint8_t* out = op_.out + (k * op_.height + top_) * op_.width;
    std::memset(out, 0, static_cast<size_t>((bottom_ - top_) * op_.width));
    int64_t column = 0, strip = 0;
    for (int64_t i = op_.masks.offsets[k]; i < op_.masks.offsets[k + 1]; ++i) {
      int64_t begin = op_.masks.runs[2 * i];
      const int64_t end = op_.masks.runs[2 * i + 1];
      while (begin < end) {
        // Most runs begin in the column of the one before, or the next.
        if (begin >= (column + 2) * op_.height) column = begin / op_.height;
        else if (begin >= (column + 1) * op_.height) ++column;
        if (column / kBlock != strip) flush(out, strip), strip = column / kBlock;
        const int64_t origin = column * op_.height, stop = std::min(end, origin + op_.height);
        fill(column % kBlock, begin - origin, stop - origin);
        begin = stop;
      }
    }
    flush(out, strip);
  }

 private:
  void fill(int64_t column, int64_t begin, int64_t end) {
    begin = std::max(begin, top_) - top_, end = std::min(end, bottom_) - top_;
    if (begin >= end) return;
    uint64_t* words = columns_.data() + column * words_;
    const int64_t first = begin / kBlock, last = (end - 1) / kBlock;
    const uint64_t head = ~uint64_t{0} << (begin % kBlock), tail = ~uint64_t{0} >> (kBlock - 1 - (end - 1) % kBlock);
    words[first] |= first == last ? head & tail : head;
    for (int64_t word = first + 1; word < last; ++word) words[word] = ~uint64_t{0};
    if (first != last) words[last] |= tail;
    for (int64_t word = first; word <= last; ++word) dirty_[static_cast<size_t>(word)] = 1;
  }

  void flush(uint8_t* out, int64_t strip) {
    const int64_t x = strip * kBlock, columns = std::min(kBlock, op_.width - x);
    for (int64_t word = 0; word < words_; ++word) {
      if (!dirty_[static_cast<size_t>(word)]) continue;
      dirty_[static_cast<size_t>(word)] = 0;
      uint64_t block[kBlock];
      for (int64_t c = 0; c < kBlock; ++c) {
        block[c] = columns_[static_cast<size_t>(c * words_ + word)];
        columns_[static_cast<size_t>(c * words_ + word)] = 0;
      }
      turn(block);
      const int64_t y = word * kBlock, rows = std::min(kBlock, bottom_ - top_ - y);
      for (int64_t r = 0; r < rows; ++r)
        if (block[r] != 0) bytes_of(block[r], out + (y + r) * op_.width + x, columns);
    }
  }

  const DecodeRuns& op_;
  int64_t top_, bottom_, words_;
  std::vector<uint64_t> columns_;  // [kBlock, words_]
  std::vector<uint8_t> dirty_;
};

}  // namespace

void decode_runs(const DecodeRuns& op, const Parallel& parallel) {
  if (op.height == 0 || op.width == 0) return;
  // A few large masks are cut into bands of rows, so that every thread has its part.
  const int64_t most = (op.height + kBlock - 1) / kBlock;
  const int64_t bands = std::clamp<int64_t>(8 / std::max<int64_t>(op.masks.count, 1), 1, most);
  const int64_t share = (most + bands - 1) / bands * kBlock;
  std::atomic<int64_t> next{0};
  parallel(op.masks.count * bands, 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1)) < op.masks.count * bands;) {
      const int64_t top = std::min(i % bands * share, op.height), bottom = std::min(top + share, op.height);
      if (top < bottom) Band(op, top, bottom).write(i / bands);
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
