// What follows a convolution's sums of 32 outputs.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace htc::amx {

class Finish {
 public:
  // streams: results go past the cache, whose lines they would have read first, to `out` at multiples of 64 bytes.
  Finish(const float* bias, bool relu, bool streams = false) : bias_(bias), relu_(relu), streams_(streams) {}
  ~Finish() {
    if (streams_) _mm_sfence();
  }

  // Outputs o ... o + 31 of a pixel: sums, the latter half of them a tile further, and bias and `other` (or none).
  void operator()(const float* sums, int64_t o, const uint16_t* other, uint16_t* out) const {
    __m512 first = _mm512_load_ps(sums), second = _mm512_load_ps(sums + 256);
    if (bias_) {
      first = _mm512_add_ps(first, _mm512_loadu_ps(bias_ + o));
      second = _mm512_add_ps(second, _mm512_loadu_ps(bias_ + o + 16));
    }
    if (other) {
      first = _mm512_add_ps(first, floats(other));
      second = _mm512_add_ps(second, floats(other + 16));
    }
    if (relu_) {  // what is no number stays so
      first = _mm512_max_ps(_mm512_setzero_ps(), first);
      second = _mm512_max_ps(_mm512_setzero_ps(), second);
    }
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    if (streams_) return _mm512_stream_si512(reinterpret_cast<__m512i*>(out), halves);
    _mm512_storeu_si512(out, halves);
  }

 private:
  static __m512 floats(const uint16_t* in) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }

  const float* bias_;
  const bool relu_, streams_;
};

}  // namespace htc::amx
