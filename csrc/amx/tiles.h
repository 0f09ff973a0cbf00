// The matrix unit of newer processors (AMX): eight tiles of 16 rows of 64 bytes, and bfloat16 products of them summed
// in float32. Files of this folder are compiled for such a processor, once, and called where csrc/torch/amx.cpp finds
// one.
#pragma once
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns of its own header
#endif
#include <immintrin.h>

#include <cstdint>

namespace htc::amx {

constexpr int kRows = 16;           // of a tile
constexpr int kPairs = 16;          // of bfloat16 in a row of a tile
constexpr int kDepth = 2 * kPairs;  // channels, or pixels, that one product sums over
constexpr int kTileElements = kRows * kDepth;

// What was written is in memory: older compilers do not see that tiles are loaded from there.
inline void written() { asm volatile("" ::: "memory"); }

// All of a thread's tiles, for as long as this lives. `rows`: of tiles 0 ... 3 (sums) and 4, 5 (first factors); second
// factors, in 6 and 7, have all of theirs.
class Tiles {
 public:
  explicit Tiles(int rows) {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 8; ++tile) {
      shape.bytes[tile] = 64;
      shape.rows[tile] = static_cast<uint8_t>(tile < 6 ? rows : kRows);
    }
    written();
    _tile_loadconfig(&shape);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Tiles 0 ... 3, a block of sums: two tiles of first factors by two of second ones.
inline void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}
inline void load_sums(const float* sums) {
  _tile_loadd(0, sums, 64);
  _tile_loadd(1, sums + 256, 64);
  _tile_loadd(2, sums + 512, 64);
  _tile_loadd(3, sums + 768, 64);
}
inline void store_sums(float* sums) {
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, sums + 512, 64);
  _tile_stored(3, sums + 768, 64);
  written();
}

}  // namespace htc::amx
