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
namespace cuda {
// As find_runs of EncodeMasks (ops.h). `strings` are not touched: the host writes them (CompressRuns).
void find_runs(const EncodeLogits&, uint64_t* packet, int64_t room, Stream);
int64_t run_parts(const EncodeLogits&);
}  // namespace cuda

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
namespace cuda {
// maps: room for [K, map_h, map_w], of which prototype_maps writes the cells that a mask needs and find_runs reads
// them.
void prototype_maps(const EncodePrototypes&, float* maps, Stream);
void find_runs(const EncodePrototypes&, const float* maps, uint64_t* packet, int64_t room, Stream);
int64_t run_parts(const EncodePrototypes&);
}  // namespace cuda

// Whole masks [K, height, width], a byte per pixel, not 0 where the mask is: one compressed string per mask.
struct EncodeBitmaps {
  int64_t count, height, width;
  const uint8_t* masks;
  std::string* strings;
};
HTC_CPU_KERNEL(encode_bitmaps, EncodeBitmaps)
namespace cuda {
void find_runs(const EncodeBitmaps&, uint64_t* packet, int64_t room, Stream);
int64_t run_parts(const EncodeBitmaps&);
}  // namespace cuda

// The way back: bytes 0 or 1, [K, height, width], all images of one size.
struct DecodeRuns {
  RunMasks masks;
  int64_t height, width;
  uint8_t* out;
};
HTC_CPU_KERNEL(decode_runs, DecodeRuns)
namespace cuda {
void decode_runs(const DecodeRuns&, Stream);  // without `sizes`
}

// All pairs of masks of images of one size -> out [A, B]: what both share over what either covers, or over what a
// covers where b is a crowd; 0 where nothing is shared.
struct RleIou {
  RunMasks a, b;
  const uint8_t* crowd;  // [B], or none
  double* out;
};
HTC_CPU_KERNEL(rle_iou, RleIou)

// Which masks overlap too much: what both share over what either covers, or over what the smaller one does.
struct MaskLimit {
  bool smaller;
  double threshold;
};

// order: the candidates, best first; classes [K], or none: all alike -> those that overlap no better one of their class
// by more than the limit.
struct MaskNms {
  RunMasks masks;
  int64_t candidates;
  const int64_t* order;
  const int64_t* classes;
  MaskLimit limit;
  std::vector<int64_t>* kept;
};
HTC_CPU_KERNEL(mask_nms, MaskNms)

// As above; here the best one grows by every other of its class that overlaps what it has become, until none does ->
// merged, and the number of the one that each mask went into: groups [K], -1 for what was no candidate.
struct MergeTiles {
  RunMasks masks;
  int64_t candidates;
  const int64_t* order;
  const int64_t* classes;
  MaskLimit limit;
  int64_t* groups;
  std::vector<OneRuns>* merged;
};
HTC_CPU_KERNEL(merge_tiles, MergeTiles)

// Whole masks [A, pixels] and [B, pixels], bytes that are not 0 where the mask is -> how many pixels every pair shares
// [A, B], and each covers.
struct MaskIou {
  int64_t count_a, count_b, pixels;
  const uint8_t *a, *b;
  int64_t* shared;
  int64_t *area_a, *area_b;
};
HTC_CPU_KERNEL(mask_iou, MaskIou)
namespace cuda {
void mask_iou(const MaskIou&, void* workspace, Stream);
int64_t mask_iou_workspace(const MaskIou&);
}  // namespace cuda

// Index maps that many masks of one image share, a byte (labels), two or four per pixel (numbers of masks).
// place_runs: layers[k] receives the first layer in which mask k's pixels are free of those before it; 0 of an empty
// one.
struct PlaceRuns {
  RunMasks masks;
  int64_t* layers;
};
HTC_CPU_KERNEL(place_runs, PlaceRuns)

// out [maps, height, width] receives `fill`, and then one after the other for i < count: where mask order[i] is, its
// map layers[i] receives values[i].
struct PaintRuns {
  RunMasks masks;
  int64_t count, height, width, maps, fill;
  const int64_t* order;
  const int64_t* values;
  const int64_t* layers;
  int bytes;  // per pixel
  void* out;
};
HTC_CPU_KERNEL(paint_runs, PaintRuns)

// The way back: out [length, 6] of each number below `length`: its pixels; first column and row, those after the last;
// a layer that it is in. Zeros of one without a pixel.
struct MeasureLayers {
  int64_t maps, height, width, length;
  int bytes;  // per pixel
  const void* layers;
  int64_t* out;
};
HTC_CPU_KERNEL(measure_layers, MeasureLayers)

// Maps resized by nearest pixels, whichever those are: out[m, y, x] = in[m, rows[y], columns[x]].
struct TakePixels {
  int64_t maps, height, width, out_height, out_width;
  const int64_t* rows;
  const int64_t* columns;
  int bytes;  // per pixel
  const void* in;
  void* out;
};
HTC_CPU_KERNEL(take_pixels, TakePixels)

// Outlines as data: polygon q is points[2 * i], points[2 * i + 1] (x, y) for i from parts[q] to parts[q + 1], object k
// its polygons from objects[k] to objects[k + 1]; finite, at most 1e15 away from the origin.
struct Polygons {
  int64_t count;
  const double* points;
  const int64_t* parts;
  const int64_t* objects;
};

// Each object's pixels, the union of its polygons', as COCO counts them: one compressed string per object.
struct Rasterize {
  Polygons polygons;
  int64_t height, width;
  std::string* strings;
};
HTC_CPU_KERNEL(rasterize, Rasterize)

// The same on size x size cells that fill a box [G, 4], of object index[g]: out [G, size, size], 0 or 1. In single the
// box's sides and the scale are floats, as float32 boxes make them in NumPy.
struct RasterizeInBoxes {
  Polygons polygons;
  int64_t count, size;
  const double* boxes;
  const int64_t* index;
  bool single;
  uint8_t* out;
};
HTC_CPU_KERNEL(rasterize_in_boxes, RasterizeInBoxes)

// One mask's outlines: ring r goes from points[2 * rings[r]] to points[2 * rings[r + 1]] (x, y), piece q is its rings
// from pieces[q] to pieces[q + 1], the outer one first.
struct Outlines {
  std::vector<int64_t> points, rings, pieces;
};

// Masks' outlines along the edges of pixels; bridged: a piece is one ring, which goes to its holes and back.
struct RleToPolygons {
  RunMasks masks;
  bool bridged;
  Outlines* outlines;
};
HTC_CPU_KERNEL(rle_to_polygons, RleToPolygons)

// Where one of the masks is, or all are; at least one mask, all of one size.
struct MergeRuns {
  RunMasks masks;
  bool intersect;
  OneRuns* merged;
};
HTC_CPU_KERNEL(merge_runs, MergeRuns)

// Masks of one size whose columns and rows are chosen, moved, repeated or turned around. Column x of the result is the
// mask's columns[x], or empty where that is negative; the mask's rows from a to b become those from rows[a] to rows[b],
// or from rows[b] to rows[a] where rows [height + 1] descends.
struct TransformRuns {
  RunMasks masks;
  int64_t height, width, out_height, out_width;
  const int64_t *columns, *rows;
  OneRuns* runs;  // [K]
};
HTC_CPU_KERNEL(transform_runs, TransformRuns)

}  // namespace htc
