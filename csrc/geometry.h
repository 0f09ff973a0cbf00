// Geometry that every backend shares, so that all of them make the same decisions. Boxes are x1, y1, x2, y2, float32.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

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

template <class Real>
struct ExtentOf {
  Real start, length;
};
using Extent = ExtentOf<float>;

HTC_BOTH bool is_finite(Box b) { return fabsf(b.x1) + fabsf(b.y1) + fabsf(b.x2) + fabsf(b.y2) < INFINITY; }

// FPN's rule: boxes of side finest_size * 2^k belong to level k.
HTC_BOTH int pyramid_level(Box b, float finest_size, int levels) {
  const float size = sqrtf(fmaxf((b.x2 - b.x1) * (b.y2 - b.y1), 0.0f)) / finest_size + 1e-6f;
  int level = 0;
  for (float edge = 2.0f; level + 1 < levels && size >= edge; edge *= 2.0f) ++level;
  return level;
}

// e^x from additions and products alone, so that host and device get the same bits; within 1 ulp or two. NaN stays NaN;
// below -87.3, where floats end to be normal, it is 0, above 88.72 infinity.
HTC_BOTH float exponential(float x) {
  const float inside = x < -87.3f ? -87.3f : x > 88.72f ? 88.72f : x;
  const float power = floorf(inside * 1.44269504f + 0.5f);
  const float rest = inside - power * 0.693359375f + power * 2.12194440e-4f;
  float sum = 1.9875691e-4f;
  sum = sum * rest + 1.3981999e-3f;
  sum = sum * rest + 8.3334519e-3f;
  sum = sum * rest + 4.1665796e-2f;
  sum = sum * rest + 1.6666665e-1f;
  sum = sum * rest + 5.0000001e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  // Two powers of two: 2^128 alone is no float. A NaN has no integer, and makes the product NaN all the same.
  const int all = inside == inside ? static_cast<int>(power) : 0;
  const int32_t halves[2] = {(all / 2 + 127) << 23, (all - all / 2 + 127) << 23};
  float factors[2];
  memcpy(factors, halves, sizeof(factors));
  return x < -87.3f ? 0.0f : x > 88.72f ? INFINITY : sum * factors[0] * factors[1];
}

constexpr float kLargestChange = 4.13516656f;  // log(1000 / 16): a box changes its sides by at most this factor

// A box moved by (dx, dy, dw, dh), already times their standard deviations.
HTC_BOTH Box decode_box(Box b, float dx, float dy, float dw, float dh) {
  const float width = b.x2 - b.x1, height = b.y2 - b.y1;
  const float x = (b.x1 + b.x2) * 0.5f + width * dx, y = (b.y1 + b.y2) * 0.5f + height * dy;
  const float wide = dw < -kLargestChange ? -kLargestChange : dw > kLargestChange ? kLargestChange : dw;
  const float high = dh < -kLargestChange ? -kLargestChange : dh > kLargestChange ? kLargestChange : dh;
  const float half_width = width * exponential(wide) * 0.5f, half_height = height * exponential(high) * 0.5f;
  return {x - half_width, y - half_height, x + half_width, y + half_height};
}

// Moved inside 0..limit; NaN stays NaN, and a limit that is NaN makes one.
HTC_BOTH float clip(float at, float limit) {
  const float above = at < 0.0f ? 0.0f : at;
  return above > limit || limit != limit ? limit : above;
}
HTC_BOTH Box clip_box(Box b, float height, float width) {
  return {clip(b.x1, width), clip(b.y1, height), clip(b.x2, width), clip(b.y2, height)};
}

// An anchor, x1, y1, x2, y2 around (x, y), moved inside its image; NaN where a move is not finite or a side not longer
// than min_size.
HTC_BOTH Box proposal_box(const float* anchor, float x, float y, const float* moves, float height, float width,
                          float min_size) {
  const Box around{x + anchor[0], y + anchor[1], x + anchor[2], y + anchor[3]};
  const Box box = clip_box(decode_box(around, moves[0], moves[1], moves[2], moves[3]), height, width);
  bool real = box.x2 - box.x1 > min_size && box.y2 - box.y1 > min_size;
  for (int i = 0; i < 4; i++) real = real && fabsf(moves[i]) < INFINITY;
  return real ? box : Box{NAN, NAN, NAN, NAN};
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

// A pixel between two cells of one axis of a mask: the lower one, and what either counts. Cells are counted from 1;
// cells 0 and size + 1 are the zeros outside the mask.
struct MaskPoint {
  int cell;
  float lower, upper;
};
HTC_BOTH MaskPoint mask_point(int64_t pixel, float low, float high, int size) {
  const float at = mask_position(pixel, low, high, size), below = floorf(at);
  const float cell = fminf(fmaxf(below + 1.0f, 0.0f), static_cast<float>(size));
  return {static_cast<int>(cell), 1.0f - (at - below), at - below};
}

// Precise RoI pooling: one axis of a box, in pixels of the map; no length where the box has none. Real is float, or
// double where gradients are checked.
template <class Real>
HTC_BOTH ExtentOf<Real> precise_extent(Real low, Real high, Real scale, bool aligned) {
  const Real length = (high - low) * scale;
  return {low * scale - (aligned ? Real(0.5) : Real(0)), length > 0 && length < Real(INFINITY) ? length : Real(0)};
}

template <class Real>
struct Interval {
  Real low, high;
};

// `first` is the first of the bins; those without length are empty (1, 0).
template <class Real>
HTC_BOTH Interval<Real> precise_bin(ExtentOf<Real> first, int bin) {
  if (!(first.length > 0)) return {1, 0};
  return {first.start + static_cast<Real>(bin) * first.length, first.start + static_cast<Real>(bin + 1) * first.length};
}

// A pixel's hat: 1 at the pixel, 0 one pixel away from it, linear in between: what bilinear interpolation weighs it.
template <class Real>
HTC_BOTH Real hat(Real at) {
  const Real height = 1 - (at < 0 ? -at : at);
  return height > 0 ? height : 0;
}

// What of an interval lies under the rising and under the falling side of the hat at 0.
template <class Real>
HTC_BOTH Interval<Real> rising_part(Interval<Real> over) {
  return {over.low < -1 ? -1 : over.low > 0 ? 0 : over.low, over.high < -1 ? -1 : over.high > 0 ? 0 : over.high};
}
template <class Real>
HTC_BOTH Interval<Real> falling_part(Interval<Real> over) {
  return {over.low < 0 ? 0 : over.low > 1 ? 1 : over.low, over.high < 0 ? 0 : over.high > 1 ? 1 : over.high};
}

// The mean of a pixel's hat over an interval. Each side of the pixel is a product of a length and a height, so that
// nothing cancels in short intervals.
template <class Real>
HTC_BOTH Real hat_mean(Interval<Real> over, int pixel) {
  const Interval<Real> moved{over.low - static_cast<Real>(pixel), over.high - static_cast<Real>(pixel)};
  if (!(moved.high > moved.low)) return hat(moved.low);
  const Interval<Real> up = rising_part(moved), down = falling_part(moved);
  const Real area =
      (up.high - up.low) * (1 + (up.low + up.high) / 2) + (down.high - down.low) * (1 - (down.low + down.high) / 2);
  return area / (moved.high - moved.low);
}

// How a bin's mean changes as the low and the high end of its box's axis move; all in pixels of the map. The mean's
// distance from the hat at an end of the bin is the hat's slope times the distance to the other end, summed up: nothing
// cancels here either.
template <class Real>
HTC_BOTH Interval<Real> hat_mean_slopes(ExtentOf<Real> first, int bin, int bins, int pixel) {
  const Interval<Real> over = precise_bin(first, bin);
  const Interval<Real> moved{over.low - static_cast<Real>(pixel), over.high - static_cast<Real>(pixel)};
  const Real length = moved.high - moved.low;
  if (!(length > 0)) return {0, 0};
  const Interval<Real> up = rising_part(moved), down = falling_part(moved);
  const Real rise = (up.high - up.low) / length, fall = (down.high - down.low) / length;
  const Real rise_at = (up.low + up.high) / 2, fall_at = (down.low + down.high) / 2;
  const Real at_low = (rise * (moved.high - rise_at) - fall * (moved.high - fall_at)) / length;
  const Real at_high = (rise * (rise_at - moved.low) - fall * (fall_at - moved.low)) / length;
  const Real low = static_cast<Real>(bin) / static_cast<Real>(bins);
  const Real high = static_cast<Real>(bin + 1) / static_cast<Real>(bins);
  return {(1 - low) * at_low + (1 - high) * at_high, low * at_low + high * at_high};
}

// The pixels of a map whose hats reach into an interval, as first and one behind the last.
struct HatRange {
  int first, end;
};
template <class Real>
HTC_BOTH HatRange hat_pixels(Interval<Real> over, int size) {
  const Real most = static_cast<Real>(size);
  if (size < 1 || !(over.low <= over.high && (over.low < most) && over.high > -1)) return {0, 0};
  const Real low = over.low < 0 ? 0 : over.low, high = over.high > most - 1 ? most - 1 : over.high;
  const int first = static_cast<int>(low), last = static_cast<int>(high < 0 ? 0 : high);
  return {first, last + (static_cast<Real>(last) < high ? 2 : 1)};
}

}  // namespace htc
