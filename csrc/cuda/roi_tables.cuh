// A RoI's pixels and weights, bin by bin, in shared memory: worked out once per block, eight lanes to a line.
#pragma once
#include <algorithm>

#include "cuda/roi_geometry.cuh"

namespace htc::cuda {

// A pixel of a line by its number or, in tables of vectors, by how many vectors it lies behind pixel 0.
struct PixelWeight {
  uint32_t place;
  float weight;
};

// Vectors of one image fit into 32 bits; single elements of a huge map with odd channels do not.
template <int V>
__device__ __forceinline__ auto offset_of(PixelWeight at, int64_t step) {
  if constexpr (V == 1) return static_cast<uint64_t>(at.place) * static_cast<uint64_t>(step);
  else return at.place;
}
template <int V>
__device__ __forceinline__ uint32_t place_of(const Map& map, bool vertical, int pixel) {
  if (V == 1) return static_cast<uint32_t>(pixel);
  return static_cast<uint32_t>(pixel) * static_cast<uint32_t>((vertical ? map.stride_h : map.stride_w) / V);
}

// The pixels of a bin along one axis with their weights, each once. Where there are more than the table has room for,
// `listed` is false and the pixels are `first` and the count - 1 after it.
struct TableLine {
  int count, first;
  bool listed;
  const PixelWeight* pixels;
};

__device__ __forceinline__ const PixelWeight* pixels_of(const int2* line) {
  return reinterpret_cast<const PixelWeight*>(line + 1);
}

__device__ __forceinline__ TableLine table_line(const int2* line) {
  return {abs(line->x), line->y, line->x >= 0, pixels_of(line)};
}

// Room for 1024 pixels, shared evenly by the lines: 8 KB per block.
inline int table_room(const RoiParams& p) {
  return std::clamp(1024 / ((p.out_h + p.out_w) * (p.semantic >= 0 ? 2 : 1)), 4, 64);
}

// For every map in use (0 the RoI's level, 1 the semantic one), a line for every row of bins and every column of bins.
// In memory a line is {count, first} and then its pixels; count is negative where they are not listed.
template <class Kind, int V = 1>
struct RoiTables {
  static constexpr int kFillers = 8;  // neighbouring lanes that fill a line together, a pixel each
  int2* memory;
  int out_h, out_w, room;

  static size_t bytes(const RoiParams& p, int room) {
    return static_cast<size_t>(p.out_h + p.out_w) * (p.semantic >= 0 ? 2 : 1) * (room + 1) * sizeof(int2);
  }
  __device__ __forceinline__ int2* at(int slot, bool vertical, int bin) const {
    return memory + (slot * (out_h + out_w) + (vertical ? bin : out_h + bin)) * (room + 1);
  }
  // By whole warps; a barrier has to follow. False if this thread has seen a line too long for its table.
  __device__ __forceinline__ bool fill(const RoiParams& p, const RoiPlace& roi, int thread, int threads) const {
    const int lines = out_h + out_w, all = lines * (p.semantic >= 0 ? 2 : 1);
    bool listed = true;
    for (int i = thread / kFillers; i < all; i += threads / kFillers) {
      const int slot = i / lines, line = i - slot * lines, map = slot == 0 ? roi.level : p.semantic;
      const bool vertical = line < out_h;
      const int bin = vertical ? line : line - out_h;
      const RoiAxis<Kind> axis = roi_axis<Kind>(p, roi, map, vertical);
      listed &= fill_line(axis, bin, place_of<V>(p.maps[map], vertical, 1), memory + i * (room + 1), thread % 32);
    }
    return listed;
  }
  __device__ __forceinline__ bool fill_line(const RoiAxis<Kind>& axis, int bin, uint32_t step, int2* start,
                                            int lane) const {
    PixelWeight* pixels = reinterpret_cast<PixelWeight*>(start + 1);
    const int first_lane = lane / kFillers * kFillers;
    const HatRange range = reached_pixels(axis, bin);
    int count = 0;
    for (int base = range.first; base < range.end && count <= room; base += kFillers) {
      const int pixel = base + lane - first_lane;
      const float weight = pixel < range.end ? weight_on(axis, bin, pixel) : 0.0f;
      const unsigned found = __ballot_sync(((1u << kFillers) - 1) << first_lane, weight != 0.0f);
      const int index = count + __popc(found & ((1u << lane) - 1));
      if (weight != 0.0f && index < room) pixels[index] = {static_cast<uint32_t>(pixel) * step, weight};
      count += __popc(found);
    }
    if (lane == first_lane) *start = make_int2(count <= room ? count : range.first - range.end, range.first);
    return count <= room;
  }
};

// Puts with every column of bins, in the place of `first`, how many of its pixels, from the first on, are the last ones
// of the bin before it. Only where all lines are listed.
template <class Kind, int V>
__device__ __forceinline__ void join_columns(const RoiTables<Kind, V>& tables, int slots, int thread, int threads) {
  for (int i = thread; i < slots * tables.out_w; i += threads) {
    const int slot = i / tables.out_w, bin = i - slot * tables.out_w;
    int2 *here = tables.at(slot, false, bin), *before = here - (tables.room + 1);
    int common = bin > 0 ? min(2, min(here->x, before->x)) : 0;
    for (; common > 0; common--) {
      bool same = true;
      for (int j = 0; j < common; j++)
        same &= pixels_of(here)[j].place == pixels_of(before)[before->x - common + j].place;
      if (same) break;
    }
    here->y = common;
  }
}

// One pixel of a line. A line too long for its table works its weights out one by one: slow, and right.
template <class Kind, int V = 1>
__device__ __forceinline__ PixelWeight pixel_at(const RoiParams& p, int64_t k, int map, bool vertical, int bin,
                                                const TableLine& line, int i) {
  if (line.listed) return line.pixels[i];
  // The RoI is read again rather than kept: registers are for the common case.
  const int pixel = line.first + i;
  return {place_of<V>(p.maps[map], vertical, pixel),
          weight_on(roi_axis<Kind>(p, place_roi(p, k), map, vertical), bin, pixel)};
}

}  // namespace htc::cuda
