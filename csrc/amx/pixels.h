// Sums over pixels: outputs x 32 pixels as first factors, 16 pairs of pixels x channels as second ones.
#pragma once
#include <array>

#include "amx/tiles.h"

namespace htc::amx {

constexpr int kBlock = 32;  // outputs, and channels, whose sums are in registers: two tiles each
alignas(64) constexpr uint16_t kZeros[kBlock] = {};

// 16 x 16 numbers of 32 bits, transposed.
inline void turn(__m512i (&m)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(m[i], m[i + 1]), b = _mm512_unpackhi_epi32(m[i], m[i + 1]),
                  c = _mm512_unpacklo_epi32(m[i + 2], m[i + 3]), d = _mm512_unpackhi_epi32(m[i + 2], m[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c);
    t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d);
    t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88), b = _mm512_shuffle_i32x4(t[i], t[4 + i], 0xdd),
                  c = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88),
                  d = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xdd);
    m[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    m[4 + i] = _mm512_shuffle_i32x4(b, d, 0x88);
    m[8 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
    m[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Two tiles, 16 outputs x 32 pixels each; load(p): 32 outputs of pixel p.
template <class Load>
void transpose(const Load& load, uint16_t* out) {
  __m512i low[kPairs], high[kPairs];
  for (int pair = 0; pair < kPairs; ++pair) {
    const __m512i even = load(2 * pair), odd = load(2 * pair + 1);
    low[pair] = _mm512_unpacklo_epi16(even, odd);
    high[pair] = _mm512_unpackhi_epi16(even, odd);
  }
  turn(low);
  turn(high);
  for (int o = 0; o < 16; ++o) {  // low held outputs 0-3, 8-11, ... and high those between
    const int to = o / 4 * 8 + o % 4;
    _mm512_store_si512(out + to * kDepth, low[o]);
    _mm512_store_si512(out + (to + 4) * kDepth, high[o]);
  }
}

// One pair of pixels, of 16 channels, which lie 0-3, 8-11, ... and 4-7, 12-15, ...
inline void interleave(__m512i even, __m512i odd, uint16_t* low, uint16_t* high) {
  _mm512_store_si512(low, _mm512_unpacklo_epi16(even, odd));
  _mm512_store_si512(high, _mm512_unpackhi_epi16(even, odd));
}

// Adds to `sums`, of 32 outputs x 32 channels, those over `count` tiles of pixels; `step`: from a second factor to the
// next.
inline void add_products(const uint16_t* grad, const uint16_t* low, const uint16_t* high, int64_t step, int64_t count,
                         bool fresh, float* sums) {
  written();
  if (fresh) {
    clear_sums();
  } else {
    load_sums(sums);
  }
  for (int64_t i = 0; i < count; ++i) {
    _tile_loadd(4, grad, 64);
    _tile_loadd(6, low, 64);
    _tile_loadd(7, high, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, grad + kTileElements, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    grad += 2 * kTileElements;
    low += step;
    high += step;
  }
  store_sums(sums);
}

// Adds to `sums`, of two tiles whose columns are all alike, 32 outputs over `count` tiles of pixels.
inline void add_outputs(const uint16_t* grad, int64_t count, bool fresh, float* sums) {
  alignas(64) static const auto ones = [] {
    std::array<uint16_t, kTileElements> made;
    made.fill(0x3f80);
    return made;
  }();
  written();
  _tile_zero(0);
  _tile_zero(1);
  if (!fresh) {
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + 256, 64);
  }
  _tile_loadd(6, ones.data(), 64);
  for (int64_t i = 0; i < count; ++i, grad += 2 * kTileElements) {
    _tile_loadd(4, grad, 64);
    _tile_loadd(5, grad + kTileElements, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  written();
}
inline void write_outputs(const float* sums, float* out) {
  for (int o = 0; o < kBlock; ++o) out[o] = sums[o * 16];
}

// Such sums of products, channels in order; stride: from an output to the next.
inline void write_sums(const float* sums, float* out, int64_t stride) {
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  for (int64_t o = 0; o < kBlock; ++o, out += stride) {
    const float* row = sums + o / 16 * 512 + o % 16 * 16;
    const __m512 even = _mm512_loadu_ps(row), odd = _mm512_loadu_ps(row + 256);
    _mm512_storeu_ps(out, _mm512_permutex2var_ps(even, low, odd));
    _mm512_storeu_ps(out + 16, _mm512_permutex2var_ps(even, high, odd));
  }
}

}  // namespace htc::amx
