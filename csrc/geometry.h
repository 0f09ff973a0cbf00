// Geometry that every backend shares, so that all of them make the same decisions. Boxes are x1, y1, x2, y2, float32.
#pragma once
#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define HTC_BOTH __host__ __device__ inline
#else
#define HTC_BOTH static inline
#endif

namespace htc {

constexpr int kMaxLevels = 8;

struct Box {
  float x1, y1, x2, y2;
};

// Two neighbouring pixels and the share of the upper one; low < 0: outside the map.
struct Tap {
  int low, high;
  float fraction;
};

struct Extent {
  float start, length;
};

HTC_BOTH bool is_finite(Box b) { return fabsf(b.x1) + fabsf(b.y1) + fabsf(b.x2) + fabsf(b.y2) < INFINITY; }

// FPN's rule: boxes of side finest_size * 2^k belong to level k.
HTC_BOTH int pyramid_level(Box b, float finest_size, int levels) {
  const float size = sqrtf(fmaxf((b.x2 - b.x1) * (b.y2 - b.y1), 0.0f)) / finest_size + 1e-6f;
  int level = 0;
  for (float edge = 2.0f; level + 1 < levels && size >= edge; edge *= 2.0f) ++level;
  return level;
}

// One axis of a box on a map. Without `aligned` boxes have at least one pixel, as RoIAlign first had it.
HTC_BOTH Extent roi_extent(float low, float high, float scale, bool aligned) {
  const float offset = aligned ? 0.5f : 0.0f;
  const float start = low * scale - offset, length = high * scale - offset - start;
  return {start, aligned ? length : fmaxf(length, 1.0f)};
}

// Samples per bin of this length: the given number, or one per pixel.
HTC_BOTH int sample_count(float length, int ratio) {
  return ratio > 0 ? ratio : static_cast<int>(fminf(fmaxf(ceilf(length), 0.0f), 1073741824.0f));
}

HTC_BOTH Tap tap_at(float at, int size) {
  if (!(at >= -1.0f && at <= static_cast<float>(size)) || size < 1) return {-1, -1, 0.0f};
  at = fmaxf(at, 0.0f);
  const int low = static_cast<int>(at);
  if (low >= size - 1) return {size - 1, size - 1, 0.0f};
  return {low, low + 1, at - static_cast<float>(low)};
}

// Where the centre of a pixel of the image falls on a mask of `size` cells that fills low..high, in the order of
// operations of grid_sample (corners not aligned), so that thresholds agree with it.
HTC_BOTH float mask_position(int64_t pixel, float low, float high, int size) {
  const float unit = (static_cast<float>(pixel) + 0.5f - low) / (high - low) * 2.0f - 1.0f;
  return ((unit + 1.0f) * static_cast<float>(size) - 1.0f) * 0.5f;
}

// The pixels whose centres lie in low..high, as first and one behind the last; none for a box without extent.
struct PixelRange {
  int64_t first, end;
};
HTC_BOTH PixelRange pixels_inside(float low, float high, int64_t size) {
  if (!(high > low)) return {0, 0};
  const float most = static_cast<float>(size);
  int64_t first = static_cast<int64_t>(fminf(fmaxf(ceilf(low - 0.5f), 0.0f), most));
  int64_t end = static_cast<int64_t>(fminf(fmaxf(floorf(high - 0.5f) + 1.0f, 0.0f), most));
  return {first, end > first ? end : first};
}

}  // namespace htc
