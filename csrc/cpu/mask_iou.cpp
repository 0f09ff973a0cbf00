// What whole masks share: 64 pixels become one word, and words are compared.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <numeric>
#include <vector>

#include "masks.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// Bit i is set where byte i is not 0.
uint64_t word_of(const uint8_t* bytes) {
#if defined(__AVX512BW__)
  const __m512i all = _mm512_loadu_si512(bytes);
  return _mm512_test_epi8_mask(all, all);
#elif defined(__AVX2__)
  const auto half = [&](int at) {
    const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + at));
    return ~static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(some, _mm256_setzero_si256())));
  };
  return half(0) | static_cast<uint64_t>(half(32)) << 32;
#else
  constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7f;
  uint64_t word = 0;
  for (int i = 0; i < 8; ++i) {
    uint64_t eight = 0;
    std::memcpy(&eight, bytes + 8 * i, 8);
    const uint64_t ones = (((eight & kLow) + kLow) | eight) >> 7 & 0x0101010101010101;
    // The product brings bit 8 k of `ones` to bit 56 + k.
    word |= (ones * 0x0102040810204080) >> 56 << 8 * i;
  }
  return word;
#endif
}

int64_t count_shared(const uint64_t* a, const uint64_t* b, int64_t words) {
  int64_t sum = 0;
  for (int64_t i = 0; i < words; ++i) sum += std::popcount(a[i] & b[i]);
  return sum;
}

#if defined(__AVX512F__)
// Counting bits in vectors came after what makes the instruction set.
__attribute__((target("avx512vpopcntdq"))) int64_t count_in_vectors(const uint64_t* a, const uint64_t* b,
                                                                    int64_t words) {
  __m512i sum = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 8 <= words; i += 8)
    sum = _mm512_add_epi64(sum,
                           _mm512_popcnt_epi64(_mm512_and_si512(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i))));
  int64_t lanes[8];
  _mm512_storeu_si512(lanes, sum);
  return std::accumulate(lanes, lanes + 8, count_shared(a + i, b + i, words - i));
}
#endif

using Count = int64_t (*)(const uint64_t*, const uint64_t*, int64_t);

Count counter() {
#if defined(__AVX512F__)
  if (__builtin_cpu_supports("avx512vpopcntdq")) return count_in_vectors;
#endif
  return count_shared;
}

// Masks as words, and from which word to which each is not empty.
struct Packed {
  int64_t count, words;
  std::vector<uint64_t> bits;
  std::vector<int64_t> first, last;

  const uint64_t* mask(int64_t k) const { return bits.data() + k * words; }
};

Packed pack(const uint8_t* masks, int64_t count, int64_t pixels, int64_t* areas, const Parallel& parallel) {
  Packed out{count, (pixels + 63) / 64, {}, {}, {}};
  out.bits.resize(static_cast<size_t>(count * out.words));
  out.first.resize(static_cast<size_t>(count)), out.last.resize(static_cast<size_t>(count));
  const Count counted = counter();
  parallel(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const uint8_t* bytes = masks + k * pixels;
      uint64_t* bits = out.bits.data() + k * out.words;
      const int64_t whole = pixels / 64;
      for (int64_t i = 0; i < whole; ++i) bits[i] = word_of(bytes + 64 * i);
      if (whole < out.words) {
        uint8_t rest[64] = {};
        std::memcpy(rest, bytes + 64 * whole, static_cast<size_t>(pixels - 64 * whole));
        bits[whole] = word_of(rest);
      }
      int64_t first = 0, last = out.words;
      while (last > 0 && bits[last - 1] == 0) --last;
      while (first < last && bits[first] == 0) ++first;
      out.first[static_cast<size_t>(k)] = first, out.last[static_cast<size_t>(k)] = last;
      areas[k] = counted(bits + first, bits + first, last - first);
    }
  });
  return out;
}

constexpr int64_t kTileA = 16, kTileB = 64, kChunk = 512;  // 64 masks' chunks are 256 KB

}  // namespace

void mask_iou(const MaskIou& op, const Parallel& parallel) {
  const Packed a = pack(op.a, op.count_a, op.pixels, op.area_a, parallel);
  const bool same = op.a == op.b && op.count_a == op.count_b;
  const Packed other = same ? Packed{} : pack(op.b, op.count_b, op.pixels, op.area_b, parallel);
  if (same) std::copy(op.area_a, op.area_a + op.count_a, op.area_b);
  const Packed& b = same ? a : other;
  const int64_t down = (a.count + kTileA - 1) / kTileA, across = (b.count + kTileB - 1) / kTileB;
  const Count counted = counter();
  parallel(down * across, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t i0 = tile / across * kTileA, i1 = std::min(i0 + kTileA, a.count);
      const int64_t j0 = tile % across * kTileB, j1 = std::min(j0 + kTileB, b.count);
      for (int64_t i = i0; i < i1; ++i) std::fill(op.shared + i * b.count + j0, op.shared + i * b.count + j1, 0);
      for (int64_t from = 0; from < a.words; from += kChunk) {
        for (int64_t i = i0; i < i1; ++i) {
          const int64_t low = std::max(from, a.first[static_cast<size_t>(i)]);
          const int64_t high = std::min(from + kChunk, a.last[static_cast<size_t>(i)]);
          if (low >= high) continue;
          for (int64_t j = j0; j < j1; ++j) {
            const int64_t first = std::max(low, b.first[static_cast<size_t>(j)]);
            const int64_t last = std::min(high, b.last[static_cast<size_t>(j)]);
            if (first < last) op.shared[i * b.count + j] += counted(a.mask(i) + first, b.mask(j) + first, last - first);
          }
        }
      }
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
