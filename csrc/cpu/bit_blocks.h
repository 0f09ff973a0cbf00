// Blocks of 64 × 64 pixels, a bit each: from bytes and back, and turned, since images lie in rows and runs in columns.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace htc::cpu::HTC_INSTRUCTION_SET {

constexpr int64_t kBlock = 64;

// Bit i: bytes[i] is not 0, for i below count (64 at most).
inline uint64_t bits_of(const uint8_t* bytes, int64_t count) {
  if (count < kBlock) {
    uint8_t padded[kBlock] = {};
    std::memcpy(padded, bytes, static_cast<size_t>(count));
    return bits_of(padded, kBlock);
  }
#if defined(__AVX512BW__)
  const __m512i v = _mm512_loadu_si512(bytes);
  return _mm512_test_epi8_mask(v, v);
#elif defined(__AVX2__)
  const auto zeros = [&](int64_t at) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + at));
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, _mm256_setzero_si256())));
  };
  return ~(static_cast<uint64_t>(zeros(32)) << 32 | zeros(0));
#else
  uint64_t bits = 0;
  for (int64_t i = 0; i < kBlock; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, bytes + i, 8);
    // The lowest bit of each byte: whether it is not 0; then all of them beside each other.
    eight = (((eight & 0x7f7f7f7f7f7f7f7f) + 0x7f7f7f7f7f7f7f7f) | eight) >> 7 & 0x0101010101010101;
    bits |= (eight * 0x0102040810204080 >> 56) << i;
  }
  return bits;
#endif
}

// The way back: 0 or 1.
inline void bytes_of(uint64_t bits, uint8_t* bytes, int64_t count) {
  if (count < kBlock) {
    uint8_t padded[kBlock];
    bytes_of(bits, padded, kBlock);
    std::memcpy(bytes, padded, static_cast<size_t>(count));
    return;
  }
#if defined(__AVX512BW__)
  _mm512_storeu_si512(bytes, _mm512_maskz_set1_epi8(bits, 1));
#else
  for (int64_t i = 0; i < kBlock; i += 8) {
    uint64_t eight = (bits >> i & 0xff) * 0x0101010101010101 & 0x8040201008040201;
    eight = ((eight + 0x7f7f7f7f7f7f7f7f) | eight) >> 7 & 0x0101010101010101;
    std::memcpy(bytes + i, &eight, 8);
  }
#endif
}

// Bit c of words[r] becomes bit r of words[c].
inline void turn(uint64_t (&words)[kBlock]) {
  uint64_t mask = 0x00000000ffffffff;
  for (int step = 32; step != 0; step >>= 1, mask ^= mask << step)
    for (int from = 0; from < kBlock; from += 2 * step)
      for (int i = from; i < from + step; ++i) {
        const uint64_t swapped = (words[i] >> step ^ words[i + step]) & mask;
        words[i] ^= swapped << step;
        words[i + step] ^= swapped;
      }
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
