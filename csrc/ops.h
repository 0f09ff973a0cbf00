// The contents page: one plain struct per operator, and who implements it. No Torch here, no CUDA headers either.
// Letters: N images, K boxes, R boxes per image, C channels, H W, L levels. Strides are in elements.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace htc {

enum class DType : int32_t { f32, f16, bf16, f64 };
constexpr int kMaxStages = 8;  // of a cascade

// Runs body(begin, end) over [0, count) on the caller's threads, at least `grain` iterations each.
using Parallel = std::function<void(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body)>;

// A cudaStream_t, unnamed so that this header needs no CUDA.
using Stream = void*;

// A map [N, C, H, W] with any strides; scale: its pixels per pixel of the image.
struct FeatureMap {
  void* data;
  int64_t height, width;
  float scale;
  int64_t stride_n, stride_c, stride_h, stride_w;
};

// One launch over a pyramid and, if present, a semantic map (kept behind the last level, averaged from a finer grid).
// Backward: the maps are float32 (float64) gradients to write or, with `add`, to add to, `out` is the gradient of the
// output.
struct RoiAlign {
  DType dtype;
  FeatureMap maps[9];
  int levels;
  bool has_semantic;
  int64_t images, channels, count;
  int64_t rois_per_image;  // R of rois [N, R, 4]; 0 where rois are [K, 5]
  const float* rois;
  int out_h, out_w, sampling_ratio, semantic_grid;
  bool aligned;
  float finest_size;
  void* out;                 // [K, out_h, out_w, C]
  bool precise;              // the integral of the interpolated map instead of samples; then no semantic map
  const double* exact_rois;  // the rois again, unrounded: where precise maps are float64
  bool add;
};
HTC_CPU_KERNEL(roi_align, RoiAlign)
HTC_CPU_KERNEL(roi_align_backward, RoiAlign)
namespace cuda {
void roi_align(const RoiAlign&, Stream);
// Here the maps are gradients of type `dtype`, written whole, the same bits every time. workspace: roi_align_workspace
// bytes.
void roi_align_backward(const RoiAlign&, void* workspace, Stream);
int64_t roi_align_workspace(const RoiAlign&);
// The same with atomic additions to maps in float32.
void roi_align_scatter(const RoiAlign&, Stream);
}  // namespace cuda

// What precise pooling gives the boxes: `pool` as forward has it, its `out` the output's gradient -> grad, float
// (double), of the rois' shape.
struct PrRoiPool {
  RoiAlign pool;
  void* grad;
};
HTC_CPU_KERNEL(pr_roi_pool_boxes, PrRoiPool)
namespace cuda {
void pr_roi_pool_boxes(const PrRoiPool&, Stream);
}

// masks [K, h, w] and the boxes [K, 4] they fill -> out [K, height, width], 1 where the mask reaches the threshold.
struct PasteMasks {
  int64_t count;
  int mask_h, mask_w;
  const float* masks;
  const float* boxes;
  int64_t height, width;
  float threshold;
  uint8_t* out;
};
HTC_CPU_KERNEL(paste_masks, PasteMasks)

// Index maps [N, layers, height, width], an object's number at its pixels -> out [K, size, size]: 1 where RoIAlign's
// mean of a RoI's object's bitmap is at least one half, 0 for RoIs that are not finite or name what is not there.
struct MaskTargets {
  bool narrow;  // int16 maps; otherwise int32
  const void* maps;
  int64_t images, layers, count;
  int height, width, size;
  const float* rois;              // [K, 5]
  const int64_t *layer, *number;  // [K]
  float* out;
};
HTC_CPU_KERNEL(mask_targets, MaskTargets)
namespace cuda {
void paste_masks(const PasteMasks&, Stream);
void mask_targets(const MaskTargets&, Stream);
}  // namespace cuda

// The same masks as COCO run lengths: `strings` receives one compressed string per mask.
struct EncodeMasks {
  int64_t count;
  int mask_h, mask_w;
  const float* masks;
  const float* boxes;
  int64_t height, width;
  float threshold;
  std::vector<std::string>* strings;
};
HTC_CPU_KERNEL(encode_masks, EncodeMasks)

// Runs of ones [begin, end), counted in pixels column by column, as the GPU finds them: `parts` places per mask, in the
// order of its columns -> one compressed string per mask.
struct CompressRuns {
  int64_t count, parts, pixels;
  const uint32_t* places;  // [count, parts, 2]: the first run, how many
  const uint32_t* runs;    // [.., 2]
  std::vector<std::string>* strings;
};
HTC_CPU_KERNEL(compress_runs, CompressRuns)
namespace cuda {
// packet: one word of 64 bits for how many runs there are, one per place, and `room` for runs. Where there are more
// than that, places are not to be read, and the packet has to be made again. The images have fewer than 2^32 pixels.
void find_runs(const EncodeMasks&, uint64_t* packet, int64_t room, Stream);
int64_t run_parts(const EncodeMasks&);
}  // namespace cuda

// N images of B candidates: boxes [N, B, 4], scores [N, B], classes [N, B] (or none: all alike) -> the kept ones'
// indices, best first, ties by index: indices [N, max_output] padded with -1, counts [N]. Boxes that are not finite and
// NaN scores are never kept.
struct BatchedNms {
  int64_t images, count;
  const float* boxes;
  const float* scores;
  const int64_t* classes;
  double iou_threshold;
  bool has_score_threshold;
  float score_threshold;  // candidates must exceed it
  int64_t max_output;
  int64_t* indices;
  int32_t* counts;
};
HTC_CPU_KERNEL(batched_nms, BatchedNms)
namespace cuda {
void batched_nms(const BatchedNms&, void* workspace, Stream);
int64_t batched_nms_workspace(const BatchedNms&);
}  // namespace cuda

// Numbers [N, R, columns] in float32, float16 or bfloat16, with any strides.
struct Rows {
  DType dtype;
  const void* data;
  int64_t stride_n, stride_r, stride_c;
};

// How boxes [N, R, 4] are moved: by deltas [N, R, 4], or [N, R, 4 * classes] where they differ by class, times std;
// then clipped to image_sizes [N, 2], height and width.
struct BoxMoves {
  int64_t images, rows;
  const float* boxes;
  Rows deltas;
  bool by_class;
  float std[4];
  const int64_t* image_sizes;
};

// Boxes moved by the deltas of their best foreground class in logits [N, R, classes + 1] (the lowest of equals, the
// first NaN), or of labels [N, R] where those are given and not negative; zeros for labels that are no class -> out [N,
// R, 4].
struct Refine {
  BoxMoves moves;
  int64_t classes;
  Rows logits;
  const int64_t* labels;
  float* out;
};
HTC_CPU_KERNEL(refine, Refine)
namespace cuda {
void refine(const Refine&, Stream);
}

// The stages' logits [N, R, classes + 1], background last, averaged before or after the softmax; whatever exceeds the
// threshold is moved and goes through NMS by class. Best first, ties by row and then by class -> boxes [N, max_output,
// 4] and scores [N, max_output], zeros behind the last; labels [N, max_output], -1 behind it; counts [N].
struct Detect {
  BoxMoves moves;
  int64_t classes;
  int stages;
  Rows logits[kMaxStages];
  bool average_logits;
  const uint8_t* valid;  // [N, R], or none: all are
  float score_threshold;
  double iou_threshold;
  int64_t max_output;
  float* boxes;
  float* scores;
  int64_t* labels;
  int32_t* counts;
};
HTC_CPU_KERNEL(detections, Detect)
namespace cuda {
void detections(const Detect&, void* workspace, Stream);
int64_t detections_workspace(const Detect&);
}  // namespace cuda

// A region proposal network's maps, level by level -> its best boxes: per image and level the `per_level` best logits
// (ties in order of row, column, anchor), their anchors moved and clipped, NMS within the level, of all levels the best
// `limit`, zeros where there are fewer. What is not finite gives no box.
constexpr int kProposalLevels = 8, kProposalAnchors = 128;
struct ProposalLevel {
  FeatureMap objectness;  // [N, A, h, w]
  FeatureMap deltas;      // [N, 4A, h, w]: dx, dy, dw, dh of the first anchor, then of the next
  int64_t anchors;        // A
  int64_t first_anchor;   // where they stand in Propose::anchors
  float down, across;     // the image's pixels per row and column of the map
};
struct Propose {
  DType dtype;
  int levels;
  ProposalLevel level[kProposalLevels];
  float anchors[kProposalAnchors][4];  // around the place of a map's first pixel
  int64_t images;
  const void* image_sizes;  // [N, 2] height, width: int64 if whole_sizes, otherwise float
  bool whole_sizes;
  int64_t per_level, limit;
  double iou_threshold;
  float min_size;      // both sides must be longer
  float delta_std[4];  // what deltas are multiplied by
  float* boxes;        // [N, limit, 4]
  float* scores;       // [N, limit] probabilities
  bool* valid;         // [N, limit]
};
HTC_CPU_KERNEL(propose, Propose)
namespace cuda {
void propose(const Propose&, void* workspace, Stream);
int64_t propose_workspace(const Propose&);
}  // namespace cuda

// Maps of up to eight sizes [N, heights[l], widths[l], C] -> out [N, height, width, C]: the sum of them resampled
// (bilinear, corners aligned), each through a ReLU if asked for. open [N, height, width, C] or none: bit l is set where
// map l is not cut off by it.
struct ResampledSum {
  DType dtype;  // not float64; sums are float32
  int levels;
  void* maps[8];
  int64_t heights[8], widths[8];
  int64_t images, channels, height, width;
  bool relu;
  uint8_t* open;
  void* out;
};
HTC_CPU_KERNEL(resampled_sum, ResampledSum)
// `out` is the sum's gradient, the maps receive theirs whole; without `open` every map takes all of it.
HTC_CPU_KERNEL(resampled_sum_backward, ResampledSum)

// N images of B candidates, as for BatchedNms -> what each class's decay leaves, best first, ties by index: indices and
// decayed scores [N, max_output] padded with -1 and 0, counts [N]. Scores that are not finite are never kept; min_score
// is not negative, for a negative score would rise.
struct SoftNms {
  int64_t images, count;
  const float* boxes;
  const float* scores;
  const int64_t* classes;
  bool gaussian;
  float iou_threshold, sigma, min_score;
  int64_t max_output;
  int64_t* indices;
  float* decayed;
  int32_t* counts;
};
HTC_CPU_KERNEL(soft_nms, SoftNms)
namespace cuda {
void soft_nms(const SoftNms&, void* workspace, Stream);
int64_t soft_nms_workspace(const SoftNms&);
}  // namespace cuda

// Features in 8 bits, as oneDNN's quantised layers read them: out[i] = x[i] / step + zero, rounded to the nearest
// (even) and clamped to 0..255; NaN becomes 0.
struct Quantize {
  DType dtype;  // of x, not float64
  int64_t count;
  const void* x;
  float step;
  int64_t zero;
  uint8_t* out;
};
HTC_CPU_KERNEL(quantize, Quantize)

}  // namespace htc
