// The contents page: one plain struct per operator, and who implements it. No Torch here, no CUDA headers either.
// Letters: N images, K boxes, R boxes per image, C channels, H W, L levels. Strides are in elements.
#pragma once
#include <cstdint>
#include <functional>

#include "cpu/dispatch.h"

namespace htc {

enum class DType : int32_t { f32, f16, bf16, f64 };

// Runs body(begin, end) over [0, count) on the caller's threads, at least `grain` iterations each.
using Parallel = std::function<void(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body)>;

// A cudaStream_t, unnamed so that this header needs no CUDA.
using Stream = void*;

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

}  // namespace htc
