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
// Backward: the maps are float32 (float64) gradients to add to, `out` is the gradient of the output.
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
namespace cuda {
void paste_masks(const PasteMasks&, Stream);
}

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

// Runs of ones [begin, end), counted in pixels column by column, as the GPU finds them: offsets [count + 1], those of
// mask k are offsets[k] .. offsets[k + 1] - 1 -> one compressed string per mask.
struct CompressRuns {
  int64_t count, pixels;
  const int64_t* offsets;
  const uint32_t* runs;  // [offsets[count], 2]
  std::vector<std::string>* strings;
};
HTC_CPU_KERNEL(compress_runs, CompressRuns)
namespace cuda {
// Finds where every mask's runs go, then writes them there: in between the caller learns how many there are.
// workspace: encode_masks_workspace bytes, the same for both. The images have fewer than 2^32 pixels.
int64_t encode_masks_workspace(const EncodeMasks&);
void count_runs(const EncodeMasks&, void* workspace, int64_t* offsets, Stream);
void write_runs(const EncodeMasks&, const void* workspace, uint32_t* runs, Stream);
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

// 3x3 convolutions with one pixel of padding as products of transformed tiles (Winograd's F(4x4, 3x3)): a quarter of
// the multiplications. Weights [O, C, 3, 3] become `packed`, winograd_floats numbers, once per instruction set's
// layout.
struct WinogradWeights {
  int64_t outputs, channels;
  const float* weight;
  int64_t stride_o, stride_c, stride_h, stride_w;
  float* packed;
};
HTC_CPU_KERNEL(winograd_weights, WinogradWeights)
constexpr int64_t winograd_floats(int64_t outputs, int64_t channels) { return 36 * outputs * channels; }

// x [N, H, W, C] -> out [N, H, W, O] = x * weights + bias, relu if asked for. C is a multiple of 16, O of 32.
struct Winograd {
  DType dtype;  // float32 or bfloat16, of x and out; everything between is float32
  int64_t images, height, width, channels, outputs;
  const void* x;
  const float* packed;
  const float* bias;  // [O] or none
  bool relu;
  void* out;
};
HTC_CPU_KERNEL(winograd, Winograd)

// boxes [K, 4], scores [K], classes [K] -> indices [kept], decayed [kept], room for max_output of each.
struct SoftNms {
  int64_t count;
  const float* boxes;
  const float* scores;
  const int64_t* classes;
  bool gaussian;
  float iou_threshold, sigma, min_score;
  int64_t max_output;
  int64_t* indices;
  float* decayed;
  int64_t* kept;
};
HTC_CPU_KERNEL(soft_nms, SoftNms)
namespace cuda {
// `kept` stays on the device: count. workspace: soft_nms_workspace bytes.
void soft_nms(const SoftNms&, int32_t* count, void* workspace, Stream);
int64_t soft_nms_workspace(const SoftNms&);
}  // namespace cuda

}  // namespace htc
