// Maps of logits resized to the image, a column of the image at a time: the cells of the map are mixed along x, all
// rows at once, and then only pixels between two cells that are not clearly on the same side of the threshold are
// looked at. The order of operations is the reference's, without fused multiply-adds, so that both agree on every
// pixel.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/run_lengths.h"
#include "cpu/simd.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {

// One axis of the image: for each pixel the cell before its centre, counted from the crop's first, and the shares of it
// and of the next one.
struct CellAxis {
  std::vector<int> cell;
  std::vector<float> lower, upper;
  int first, count;  // the map's cells that the image shows
  float scale, shift;

  CellAxis(float low, float high, int64_t pixels) {
    first = static_cast<int>(std::floor(low)), count = static_cast<int>(std::ceil(high)) - first;
    const double side = static_cast<double>(std::max<int64_t>(pixels, 1));
    scale = static_cast<float>((static_cast<double>(high) - low) / side), shift = low - static_cast<float>(first);
    const size_t size = static_cast<size_t>(pixels);
    cell.resize(size), lower.resize(size), upper.resize(size);
    for (size_t i = 0; i < size; ++i) {
      const float at = std::max(scale * (static_cast<float>(i) + 0.5f) - 0.5f + shift, 0.0f);
      cell[i] = std::min(static_cast<int>(at), count - 1);
      upper[i] = std::min(at - static_cast<float>(cell[i]), 1.0f);
      lower[i] = 1.0f - upper[i];
    }
  }
};

inline uint64_t lanes_of(Vec x, float least, float most) {  // bit i: least < x[i] <= most
#if defined(__AVX512F__)
  const __m512 v = reinterpret_cast<__m512>(x);
  return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(v, _mm512_set1_ps(least), _CMP_GT_OQ), v, _mm512_set1_ps(most),
                                 _CMP_LE_OQ);
#elif defined(__AVX2__)
  const __m256 v = reinterpret_cast<__m256>(x);
  return static_cast<uint64_t>(_mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps(v, _mm256_set1_ps(least), _CMP_GT_OQ),
                                                                _mm256_cmp_ps(v, _mm256_set1_ps(most), _CMP_LE_OQ))));
#else
  uint64_t bits = 0;
  for (int i = 0; i < kWidth; ++i) bits |= static_cast<uint64_t>(x[i] > least && x[i] <= most) << i;
  return bits;
#endif
}

// Where masks of one size are found, on one thread.
class LogitLines {
 public:
  // Rows of the turned map: its cells, the last of them once more, and what fills the words of 64.
  int64_t stride() const { return stride_; }
  const CellAxis& across() const { return columns_; }
  const CellAxis& down() const { return rows_; }

  LogitLines(const float (&crop)[4], int64_t height, int64_t width, float threshold)
      : columns_(crop[0], crop[2], width), rows_(crop[1], crop[3], height), height_(height), threshold_(threshold) {
    stride_ = (rows_.count + 1 + 63) / 64 * 64;
    // Beyond rounding: the mix of two values is never outside these by more.
    clearly_above_ = threshold + std::fabs(threshold) * 1e-5f + 1e-30f;
    clearly_below_ = threshold - std::fabs(threshold) * 1e-5f - 1e-30f;
    // What is not positive mixes to nothing positive, zeros too.
    if (threshold == 0.0f) clearly_below_ = std::numeric_limits<float>::denorm_min();
    starts_.assign(static_cast<size_t>(stride_) + 1, height);
    for (int64_t row = height - 1; row >= 0; --row)
      starts_[static_cast<size_t>(rows_.cell[static_cast<size_t>(row)])] = row;
    for (int64_t s = rows_.count - 1; s >= 0; --s)
      starts_[static_cast<size_t>(s)] = std::min(starts_[static_cast<size_t>(s)], starts_[static_cast<size_t>(s) + 1]);
    if (height > 0) starts_[0] = 0;
    line_.resize(static_cast<size_t>(stride_));
    spans_.resize(static_cast<size_t>(columns_.count) + 1);
  }

  // turned: [columns_.count, stride], a column of the map after the other, the rest of each filled by `fill`.
  void fill(float* column) const {
    column[rows_.count] = column[rows_.count - 1];
    std::fill(column + rows_.count + 1, column + stride_, -std::numeric_limits<float>::infinity());
  }

  // Adds the runs of the image's columns [x0, x1), of their pixels [y0, y1).
  void walk(const float* turned, int64_t x0, int64_t x1, int64_t y0, int64_t y1, Runs& runs) {
    top_ = y0, bottom_ = y1;
    if (x0 >= x1) return;
    const int last = std::min(columns_.cell[static_cast<size_t>(x1) - 1] + 1, columns_.count - 1);
    for (int c = columns_.cell[static_cast<size_t>(x0)]; c <= last; ++c)
      spans_[static_cast<size_t>(c)] = span(turned + c * stride_);
    for (int64_t x = x0; x < x1; ++x) {
      const size_t at = static_cast<size_t>(x);
      const int cell = columns_.cell[at], next = std::min(cell + 1, columns_.count - 1);
      const Span a = spans_[static_cast<size_t>(cell)], b = spans_[static_cast<size_t>(next)];
      const Span both{std::min(a.first, b.first), std::max(a.last, b.last)};
      if (both.first > both.last) continue;
      column(turned + cell * stride_, turned + next * stride_, columns_.lower[at], columns_.upper[at], both,
             x * height_, runs);
    }
  }

 private:
  // Words of 64 cells of which some, or the ones beside them, are not clearly below.
  struct Span {
    int64_t first, last;
  };

  Span span(const float* column) const {
    Span found{stride_, -1};
    for (int64_t r = 0; r < stride_; r += kWidth) {
      const Vec v = *reinterpret_cast<const Unaligned*>(column + r);
      // Not a number is neither below nor above.
      if (below(v) == kAll) continue;
      found.first = std::min(found.first, std::max<int64_t>(r - 1, 0) / 64);
      found.last = std::min((r + kWidth) / 64, stride_ / 64 - 1);
    }
    return found;
  }

  static constexpr uint64_t kAll = kWidth == 64 ? ~uint64_t{0} : (uint64_t{1} << kWidth) - 1;

  uint64_t below(Vec v) const {  // minus infinity too
    return lanes_of(-v, -clearly_below_, std::numeric_limits<float>::infinity());
  }

  void column(const float* a, const float* b, float lower, float upper, Span words, int64_t origin, Runs& runs) {
    uint64_t above_next = 0, below_next = ~uint64_t{0};
    uint64_t above[2], under[2];
    const auto mix = [&](int64_t word, uint64_t& hi, uint64_t& lo) {
      hi = 0, lo = 0;
      for (int i = 0; i < 64; i += kWidth) {
        const int64_t r = word * 64 + i;
        const Vec v =
            *reinterpret_cast<const Unaligned*>(a + r) * lower + *reinterpret_cast<const Unaligned*>(b + r) * upper;
        *reinterpret_cast<Unaligned*>(line_.data() + r) = v;
        hi |= lanes_of(v, clearly_above_, std::numeric_limits<float>::max()) << i;
        lo |= below(v) << i;
      }
    };
    mix(words.first, above[0], under[0]);
    for (int64_t word = words.first; word <= words.last; ++word) {
      above[1] = above_next, under[1] = below_next;
      if (word < words.last) mix(word + 1, above[1], under[1]);
      const uint64_t full = above[0] & (above[0] >> 1 | above[1] << 63);
      uint64_t active = ~(under[0] & (under[0] >> 1 | under[1] << 63));
      while (active != 0) {
        const int at = std::countr_zero(active);
        const int64_t s = word * 64 + at;
        if (full >> at & 1) {
          const int length = std::countr_one(full >> at);
          add(starts_[static_cast<size_t>(s)], starts_[static_cast<size_t>(s + length)], origin, runs);
          active &= length + at == 64 ? 0 : ~uint64_t{0} << (at + length);
        } else {
          between(s, origin, runs);
          active &= active - 1;
        }
      }
      above[0] = above[1], under[0] = under[1];
    }
  }

  void add(int64_t begin, int64_t end, int64_t origin, Runs& runs) const {
    begin = std::max(begin, top_), end = std::min(end, bottom_);
    if (begin < end) runs.add(origin + begin, origin + end);
  }

  // Pixels between the cells s and s + 1 of the line.
  void between(int64_t s, int64_t origin, Runs& runs) const {
    const int64_t begin = starts_[static_cast<size_t>(s)], end = starts_[static_cast<size_t>(s) + 1];
    if (begin >= end) return;
    const float a = line_[static_cast<size_t>(s)], b = line_[static_cast<size_t>(s) + 1];
    const auto above = [&](int64_t row) {
      const size_t at = static_cast<size_t>(row);
      return a * rows_.lower[at] + b * rows_.upper[at] > threshold_;
    };
    // Of two signs, the mix rises or falls all the way, rounded too: it crosses once.
    if (std::min(a, b) <= 0.0f && std::max(a, b) >= 0.0f && std::fabs(a) <= kLarge && std::fabs(b) <= kLarge) {
      const float place = (threshold_ - a) / (b - a) + static_cast<float>(s) + 0.5f - rows_.shift;
      int64_t row = static_cast<int64_t>(
          std::clamp(place / rows_.scale - 0.5f, static_cast<float>(begin), static_cast<float>(end)));
      row = std::clamp(row, begin, end);
      const bool falls = a > b;
      while (row > begin && above(row - 1) != falls) --row;
      while (row < end && above(row) == falls) ++row;
      return falls ? add(begin, row, origin, runs) : add(row, end, origin, runs);
    }
    for (int64_t row = begin, from = begin; row <= end; ++row) {
      if (row < end && above(row)) continue;
      add(from, row, origin, runs);
      from = row + 1;
    }
  }

  static constexpr float kLarge = 1e30f;
  CellAxis columns_, rows_;
  int64_t height_, stride_, top_ = 0, bottom_ = 0;
  float threshold_, clearly_above_, clearly_below_;
  std::vector<int64_t> starts_;  // by cell: the first pixel behind it
  std::vector<float> line_;      // the cells of one column of the image
  std::vector<Span> spans_;
};

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
