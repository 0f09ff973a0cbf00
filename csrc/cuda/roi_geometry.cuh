// Where a RoI lies on its maps, and which pixels make up a bin with which weights. Everything here is separable: a
// weight of the bin is a weight along y times a weight along x.
#pragma once
#include <algorithm>

#include "cuda/half.cuh"
#include "geometry.h"

namespace htc::cuda {

constexpr int kMaxMaps = kMaxLevels + 1;  // the pyramid's levels, and the semantic map after the last of them

struct Map {
  void* data;
  int height, width;
  float scale;
  int64_t stride_n, stride_c, stride_h, stride_w;  // in elements
};

// What both kernels of RoIAlign are given, by value.
struct RoiParams {
  Map maps[kMaxMaps];
  int levels, semantic;  // semantic: the semantic map's index, or -1
  const float* rois;
  int64_t count, rois_per_image;  // rois_per_image: R of [N, R, 4]; 0 where rois are [K, 5]
  int images, channels, out_h, out_w, semantic_grid, sampling_ratio;
  bool aligned;
  float finest_size;
};

inline RoiParams roi_params(const RoiAlign& a) {
  RoiParams p{};
  p.levels = a.levels;
  p.semantic = a.has_semantic ? a.levels : -1;
  for (int m = 0; m < a.levels + a.has_semantic; m++) {
    const FeatureMap& map = a.maps[m];
    p.maps[m] = {map.data,
                 static_cast<int>(map.height),
                 static_cast<int>(map.width),
                 map.scale,
                 map.stride_n,
                 map.stride_c,
                 map.stride_h,
                 map.stride_w};
  }
  p.rois = a.rois;
  p.count = a.count;
  p.rois_per_image = a.rois_per_image;
  p.images = static_cast<int>(a.images);
  p.channels = static_cast<int>(a.channels);
  p.out_h = a.out_h;
  p.out_w = a.out_w;
  p.semantic_grid = a.semantic_grid;
  p.sampling_ratio = a.sampling_ratio;
  p.aligned = a.aligned;
  p.finest_size = a.finest_size;
  return p;
}

// Vectors need channels side by side, and every pixel of the maps and of `pooled` on a 16-byte boundary.
inline bool vectorised(const RoiParams& p, const void* pooled, int vector) {
  if (p.channels % vector != 0 || reinterpret_cast<uintptr_t>(pooled) % 16 != 0) return false;
  for (int m = 0; m < p.levels + (p.semantic >= 0); m++) {
    const Map& map = p.maps[m];
    if (map.stride_c != 1 || map.stride_n % vector || map.stride_h % vector || map.stride_w % vector ||
        reinterpret_cast<uintptr_t>(map.data) % 16)
      return false;
  }
  return true;
}

struct RoiPlace {
  Box box;
  int image, level;
  bool valid;  // finite, and of an image that is there; any other gives zeros
};

__device__ __forceinline__ RoiPlace place_roi(const RoiParams& p, int64_t k) {
  RoiPlace roi;
  const bool has_image = p.rois_per_image == 0;
  const float* row = p.rois + k * (has_image ? 5 : 4);
  // Compared as a float first: a NaN or a huge index has no meaning as an integer.
  const float image =
      has_image ? *row++ : static_cast<float>(static_cast<uint32_t>(k) / static_cast<uint32_t>(p.rois_per_image));
  roi.box = {row[0], row[1], row[2], row[3]};
  roi.valid = image >= 0.0f && image < static_cast<float>(p.images) && is_finite(roi.box);
  roi.image = roi.valid ? static_cast<int>(image) : 0;
  roi.level = roi.valid ? pyramid_level(roi.box, p.finest_size, p.levels) : 0;
  return roi;
}

// How a bin becomes a mean: of samples of the interpolated map, or of all of it.
struct Sampled {};
struct Precise {};

// One axis of a RoI on a map: `grid` sub-bins of equal length, each sampled `samples` times, pooled into `bins` bins.
// Precise sub-bins are the bins themselves; no samples means no extent.
template <class Kind>
struct RoiAxis {
  float start, length;  // of the first sub-bin, of every sub-bin, in pixels of the map
  int samples, size, grid, bins;
};

template <class Kind>
__device__ __forceinline__ RoiAxis<Kind> roi_axis(const RoiParams& p, const RoiPlace& roi, int map, bool vertical) {
  const Map& m = p.maps[map];
  RoiAxis<Kind> axis;
  axis.bins = vertical ? p.out_h : p.out_w;
  axis.size = vertical ? m.height : m.width;
  if constexpr (std::is_same_v<Kind, Precise>) {
    const Extent extent = vertical ? precise_extent(roi.box.y1, roi.box.y2, m.scale, p.aligned)
                                   : precise_extent(roi.box.x1, roi.box.x2, m.scale, p.aligned);
    axis.start = extent.start;
    axis.length = extent.length / static_cast<float>(axis.bins);
    axis.grid = axis.bins;
    axis.samples = axis.length > 0.0f;
    return axis;
  }
  axis.grid = map == p.semantic ? p.semantic_grid : axis.bins;
  const Extent extent = vertical ? roi_extent(roi.box.y1, roi.box.y2, m.scale, p.aligned)
                                 : roi_extent(roi.box.x1, roi.box.x2, m.scale, p.aligned);
  axis.start = extent.start;
  axis.length = extent.length / static_cast<float>(axis.grid);
  axis.samples = sample_count(axis.length, p.sampling_ratio);
  return axis;
}

__device__ __forceinline__ int first_sub_bin(const RoiAxis<Sampled>& axis, int bin) {
  return bin * axis.grid / axis.bins;
}
__device__ __forceinline__ int last_sub_bin(const RoiAxis<Sampled>& axis, int bin) {
  return ((bin + 1) * axis.grid + axis.bins - 1) / axis.bins;
}

// Calls visit(tap, weight) for every sample of a bin that falls on the map and, where a range of pixels is given, may
// touch it. The range keeps a gigantic box from costing a gigantic loop.
template <class Visit>
__device__ __forceinline__ void visit_samples(const RoiAxis<Sampled>& axis, int bin, float from, float to,
                                              Visit visit) {
  const int begin = first_sub_bin(axis, bin), end = last_sub_bin(axis, bin);
  const float weight = 1.0f / (static_cast<float>(axis.samples) * static_cast<float>(end - begin));
  for (int sub = begin; sub < end; sub++) {
    const float base = axis.start + static_cast<float>(sub) * axis.length;
    int first = 0, last = axis.samples;
    if (axis.samples > 8 && axis.length != 0.0f) {
      // One sample of slack on either side: rounding must not lose one, and tap_at drops those outside anyway.
      const float density = static_cast<float>(axis.samples) / axis.length;
      const float a = (from - base) * density, b = (to - base) * density, most = static_cast<float>(axis.samples);
      first = static_cast<int>(fminf(fmaxf(fminf(a, b) - 2.0f, 0.0f), most));
      last = static_cast<int>(fminf(fmaxf(fmaxf(a, b) + 2.0f, 0.0f), most));
    }
#pragma unroll 1
    for (int i = first; i < last; i++) {
      const float at = base + (static_cast<float>(i) + 0.5f) * axis.length / static_cast<float>(axis.samples);
      const Tap tap = tap_at(at, axis.size);
      if (tap.low >= 0) visit(tap, weight);
    }
  }
}

// A bin's piece of its axis; empty where the box has no extent.
__device__ __forceinline__ Interval<float> bin_piece(const RoiAxis<Precise>& axis, int bin) {
  return precise_bin(Extent{axis.start, axis.length}, bin);
}

// What a bin weighs on one pixel along one axis.
__device__ __forceinline__ float weight_on(const RoiAxis<Precise>& axis, int bin, int pixel) {
  return hat_mean(bin_piece(axis, bin), pixel);
}
__device__ __forceinline__ float weight_on(const RoiAxis<Sampled>& axis, int bin, int pixel) {
  float sum = 0.0f;
  visit_samples(axis, bin, static_cast<float>(pixel - 1), static_cast<float>(pixel + 1), [&](Tap tap, float weight) {
    if (tap.low == pixel) sum += weight * (1.0f - tap.fraction);
    if (tap.high == pixel) sum += weight * tap.fraction;
  });
  return sum;
}

// The pixels that a bin can have a weight on, as first and one behind the last.
__device__ __forceinline__ HatRange reached_pixels(const RoiAxis<Precise>& axis, int bin) {
  return hat_pixels(bin_piece(axis, bin), axis.size);
}
__device__ __forceinline__ HatRange reached_pixels(const RoiAxis<Sampled>& axis, int bin) {
  if (axis.samples == 0) return {0, 0};
  const float a = axis.start + static_cast<float>(first_sub_bin(axis, bin)) * axis.length;
  const float b = axis.start + static_cast<float>(last_sub_bin(axis, bin)) * axis.length;
  // A hundredth of a pixel of slack: rounding must not lose one, and those without weight are dropped anyway.
  return hat_pixels(Interval<float>{fminf(a, b) - 0.01f, fmaxf(a, b) + 0.01f}, axis.size);
}

}  // namespace htc::cuda
