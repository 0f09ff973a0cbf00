// COCO evaluation: one struct per step. Objects are numbered; a cell is one class in one picture, cells lie class by
// class and in a class picture by picture.
#pragma once
#include "masks.h"

namespace htc {

// COCO's compressed strings as they are read: string k from text[offsets[k]] to text[offsets[k + 1]].
struct MaskTexts {
  int64_t count;
  const char* text;
  const int64_t* offsets;
  const int64_t* sizes;  // [count, 2] height, width
};

// Pixels and boxes [count, 4] (x, y, w, h) of masks; faults as in ReadRuns.
struct MeasureMasks {
  MaskTexts masks;
  double* areas;
  double* boxes;
  uint8_t* faults;
};
HTC_CPU_KERNEL(measure_masks, MeasureMasks)

// A results file as columns: a list of objects with image_id, category_id (whole numbers), score, and in all of them or
// none bbox and segmentation (compressed); other keys are passed over. All columns are empty for anything else, which
// is for a slower reader with words.
struct ResultColumns {
  std::vector<int64_t> images, classes, offsets, sizes;
  std::vector<double> scores, boxes;
};
struct ReadResults {
  int64_t size;
  const char* json;
  char* text;  // room for `size` letters; the last of offsets says how many are written
  ResultColumns* columns;
};
HTC_CPU_KERNEL(read_results, ReadResults)

enum class OverlapOf : int64_t { boxes, masks, boundaries };

// Detections or truths. pixels: areas as overlaps take them; areas: as ranges of size do.
struct Objects {
  const int64_t* order;  // their numbers, cell by cell; detections of a cell best first
  const int64_t* ends;   // [cells + 1] where each cell's begin in `order`
  const double* boxes;   // [count, 4] x, y, w, h
  const double* areas;
  const double* pixels;
  MaskTexts masks;  // not read for boxes
};

// Which detections find something, for every range of sizes at once: at each place in found.order and each range, one
// bit per threshold: whether it matched, and whether it does not count.
struct MatchDetections {
  OverlapOf by;
  double boundary;  // its width in diagonals of the picture
  int64_t cells, ranges, thresholds;
  Objects found, truth;
  const uint8_t* crowd;          // of truths: may be found many times, never counts
  const uint8_t* ignored;        // of truths: never counts
  const uint8_t* lenient;        // of cells: what finds nothing does not count
  const double* range_limits;    // [ranges, 2] least and largest area
  const double* iou_thresholds;  // at most 16
  uint16_t *matched, *uncounted;
};
HTC_CPU_KERNEL(match_detections, MatchDetections)

// Curves of each class, range and limit of detections per cell, as COCOeval's arrays: precision and scores
// [thresholds, recalls, classes, ranges, limits], recall [thresholds, classes, ranges, limits]; -1 where no truth
// counts.
struct PrecisionCurves {
  int64_t classes, ranges, thresholds, recalls, limits;
  const int64_t* ends;   // [classes + 1] where each class begins
  const int64_t* ranks;  // of each detection in its cell, from 0
  const double* scores;
  const uint16_t *matched, *uncounted;
  const int64_t* truths;  // [classes, ranges] that count
  const double* recall_thresholds;
  const int64_t* most;  // [limits]
  double *precision, *recall, *score_at;
};
HTC_CPU_KERNEL(precision_curves, PrecisionCurves)

}  // namespace htc
