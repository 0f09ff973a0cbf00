// encode: run lengths of whole masks. A strip of columns is read row by row, 64 bytes to a word, and turned in blocks
// of 64 × 64, so that 64 pixels of a column are a word too; where it differs from itself, shifted by a pixel, runs
// begin and end.
#include <algorithm>
#include <atomic>
#include <bit>

#include "cpu/bit_blocks.h"
#include "cpu/run_lengths.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

constexpr int64_t kStrip = 4 * kBlock;  // columns that are read together: whole cache lines beside each other

// Where the columns [from, to) of one mask change, counted in pixels column by column.
class Changes {
 public:
  Changes(const EncodeBitmaps& op) : op_(op), words_((op.height + kBlock - 1) / kBlock) {
    columns_.resize(static_cast<size_t>(kStrip * words_));
  }

  void find(int64_t k, int64_t from, int64_t to, std::vector<int64_t>& out) {
    const uint8_t* mask = op_.masks + k * op_.height * op_.width;
    // The pixel before the first: the last of the column before.
    uint64_t before = from > 0 && op_.height > 0 && mask[(op_.height - 1) * op_.width + from - 1] != 0;
    for (int64_t x = from; x < to; x += kStrip) {
      const int64_t columns = std::min(kStrip, to - x);
      read(mask + x, columns);
      for (int64_t c = 0; c < columns; ++c) {
        const uint64_t* column = columns_.data() + c * words_;
        const int64_t origin = (x + c) * op_.height;
        for (int64_t word = 0; word < words_; ++word) {
          const int64_t rows = std::min(kBlock, op_.height - word * kBlock);
          uint64_t changes = column[word] ^ (column[word] << 1 | before);
          if (rows < kBlock) changes &= (uint64_t{1} << rows) - 1;
          before = column[word] >> (rows - 1) & 1;
          for (; changes != 0; changes &= changes - 1)
            out.push_back(origin + word * kBlock + std::countr_zero(changes));
        }
      }
    }
  }

 private:
  // Columns of the strip as words.
  void read(const uint8_t* mask, int64_t columns) {
    for (int64_t word = 0; word < words_; ++word) {
      const int64_t top = word * kBlock, rows = std::min(kBlock, op_.height - top);
      uint64_t blocks[kStrip / kBlock][kBlock], any[kStrip / kBlock] = {};
      for (int64_t r = 0; r < kBlock; ++r)
        for (int64_t b = 0; b * kBlock < columns; ++b) {
          const uint8_t* bytes = mask + (top + r) * op_.width + b * kBlock;
          any[b] |= blocks[b][r] = r < rows ? bits_of(bytes, std::min(kBlock, columns - b * kBlock)) : 0;
        }
      for (int64_t b = 0; b * kBlock < columns; ++b) {
        if (any[b] != 0) turn(blocks[b]);
        for (int64_t c = 0; c < kBlock; ++c)
          columns_[static_cast<size_t>((b * kBlock + c) * words_ + word)] = blocks[b][c];
      }
    }
  }

  const EncodeBitmaps& op_;
  int64_t words_;
  std::vector<uint64_t> columns_;  // [kStrip, words_]
};

}  // namespace

void encode_bitmaps(const EncodeBitmaps& op, const Parallel& parallel) {
  // A few large masks are cut, so that every thread has its part.
  const int64_t strips = (op.width + kStrip - 1) / kStrip;
  const int64_t parts = std::clamp<int64_t>(64 / std::max<int64_t>(op.count, 1), 1, std::max<int64_t>(strips, 1));
  const int64_t share = (strips + parts - 1) / parts * kStrip;
  std::vector<std::vector<int64_t>> changes(static_cast<size_t>(op.count * parts));
  std::atomic<int64_t> next{0};
  parallel(op.count * parts, 1, [&](int64_t, int64_t) {
    Changes one(op);
    for (int64_t i; (i = next.fetch_add(1)) < op.count * parts;) {
      const int64_t from = std::min(i % parts * share, op.width);
      one.find(i / parts, from, std::min(from + share, op.width), changes[static_cast<size_t>(i)]);
    }
  });
  parallel(op.count, 1, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      CountWriter counts;
      int64_t at = 0;
      for (int64_t part = k * parts; part < (k + 1) * parts; ++part)
        for (const int64_t change : changes[static_cast<size_t>(part)]) {
          counts.add(change - at);
          at = change;
        }
      counts.add(op.height * op.width - at);
      op.strings[k] = counts.take();
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
