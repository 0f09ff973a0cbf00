// The contents page of masks as data: one plain struct per operator, as in ops.h. Pixels are counted column by column,
// as COCO's run lengths count them: pixel (x, y) of an image of that height is x * height + y.
#pragma once
#include "ops.h"

namespace htc {

// Masks as runs of ones. Those of mask k are runs[2 * i], runs[2 * i + 1] (begin, end) for i from offsets[k] to
// offsets[k + 1], in ascending order, none empty, none touching the next; sizes[2 * k] and [2 * k + 1] are its image's
// height and width.
struct RunMasks {
  int64_t count;
  const int64_t* runs;
  const int64_t* offsets;
  const int64_t* sizes;
};

// Runs of ones [begin, end) of one mask, as kernels make them.
using OneRuns = std::vector<std::pair<int64_t, int64_t>>;

// COCO's compressed strings, string k from text[offsets[k]] to text[offsets[k + 1]] -> runs of each mask, or why there
// are none: faults[k] is 0 where all is well, 1 for a letter that is none of COCO's or a string that breaks off, 2 for
// a negative run; elsewhere the runs end before or behind the image's last pixel, and it is 3.
struct ReadRuns {
  int64_t count;
  const char* text;
  const int64_t* offsets;
  const int64_t* sizes;
  OneRuns* runs;
  uint8_t* faults;
};
HTC_CPU_KERNEL(read_runs, ReadRuns)

// The way back: strings[k] receives what pycocotools would write.
struct WriteRuns {
  RunMasks masks;
  std::string* strings;
};
HTC_CPU_KERNEL(write_runs, WriteRuns)

// Maps of logits [K, map_h, map_w], resized to the image (bilinear, pixel centres, edges clamped), above the threshold:
// one compressed string per map. crop: x1, y1, x2, y2 of the map's cells that the image shows.
struct EncodeLogits {
  int64_t count;
  int map_h, map_w;
  const float* logits;
  float crop[4];
  int64_t height, width;
  float threshold;
  std::string* strings;
};
HTC_CPU_KERNEL(encode_logits, EncodeLogits)

// The same of maps that are products of coefficients [K, P] and prototypes [P, map_h, map_w], cut to boxes [K, 4] in
// pixels of the image: before the resize in the map's cells, or after it in pixels.
struct EncodePrototypes {
  int64_t count, channels;
  int map_h, map_w;
  const float* coefficients;
  const float* prototypes;
  const float* boxes;
  float crop[4];
  int64_t height, width;
  float threshold;
  bool cut_after;
  std::string* strings;
};
HTC_CPU_KERNEL(encode_prototypes, EncodePrototypes)

// Whole masks [K, height, width], a byte per pixel, not 0 where the mask is: one compressed string per mask.
struct EncodeBitmaps {
  int64_t count, height, width;
  const uint8_t* masks;
  std::string* strings;
};
HTC_CPU_KERNEL(encode_bitmaps, EncodeBitmaps)

// The way back: bytes 0 or 1, [K, height, width], all images of one size.
struct DecodeRuns {
  RunMasks masks;
  int64_t height, width;
  uint8_t* out;
};
HTC_CPU_KERNEL(decode_runs, DecodeRuns)

}  // namespace htc
