// mask_targets: a lane for every bin of a row of bins, four rows to a block; what the columns of pixels weigh is worked
// out once per block. A bin's pixels are summed row by row, as on the CPU, so that means of about one half fall alike.
#include <limits>

#include "cuda/launch.cuh"
#include "cuda/roi_geometry.cuh"

namespace htc::cuda {
namespace {

constexpr int kLanes = 32, kRows = 4;  // bins of a block
constexpr int kRoom = 64;              // columns of pixels of a bin whose weights are kept

struct MaskTargetShared {
  float weights[kRoom][kLanes];
};

__device__ __forceinline__ RoiAxis<Sampled> axis_of(float low, float high, int size, int bins) {
  const Extent extent = roi_extent(low, high, 1.0f, true);
  const float length = extent.length / static_cast<float>(bins);
  return {extent.start, length, sample_count(length, 0), size, bins, bins};
}

template <class T>
__global__ void __launch_bounds__(kLanes* kRows) mask_targets_of_rois(const __grid_constant__ MaskTargets p) {
  HTC_SHARED(MaskTargetShared, shared);
  const int64_t k = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x), pw = static_cast<int>(blockIdx.z) * kLanes + lane;
  const int ph = static_cast<int>(blockIdx.y) * kRows + static_cast<int>(threadIdx.y);
  const float* roi = p.rois + k * 5;
  const Box box{roi[1], roi[2], roi[3], roi[4]};
  const int64_t layer = p.layer[k], wanted = p.number[k];
  const bool there = roi[0] >= 0.0f && roi[0] < static_cast<float>(p.images) && layer >= 0 && layer < p.layers;
  const bool valid = there && is_finite(box) && wanted >= 1 && wanted <= std::numeric_limits<T>::max();
  float sum = 0.0f;
  if (valid) {  // all threads of a block, or none
    const RoiAxis<Sampled> across = axis_of(box.x1, box.x2, p.width, p.size);
    const HatRange columns = pw < p.size ? reached_pixels(across, pw) : HatRange{0, 0};
    const int count = columns.end - columns.first;
    for (int x = static_cast<int>(threadIdx.y); x < min(count, kRoom); x += kRows)
      shared.weights[x][lane] = weight_on(across, pw, columns.first + x);
    __syncthreads();
    const RoiAxis<Sampled> down = axis_of(box.y1, box.y2, p.height, p.size);
    const HatRange rows = ph < p.size ? reached_pixels(down, ph) : HatRange{0, 0};
    const T number = static_cast<T>(wanted);
    const int64_t index = static_cast<int64_t>(roi[0]) * p.layers + layer;
    const T* line = static_cast<const T*>(p.maps) + (index * p.height + rows.first) * p.width + columns.first;
#pragma unroll 1
    for (int y = rows.first; y < rows.end; y++, line += p.width) {
      const float weight = weight_on(down, ph, y);
#pragma unroll 4
      for (int x = 0; x < min(count, kRoom); x++)
        sum += weight * shared.weights[x][lane] * (line[x] == number ? 1.0f : 0.0f);
      // More than there is room for: slow, and right.
#pragma unroll 1
      for (int x = kRoom; x < count; x++)
        if (line[x] == number) sum += weight * weight_on(across, pw, columns.first + x);
    }
  }
  if (pw < p.size && ph < p.size) p.out[(k * p.size + ph) * p.size + pw] = sum >= 0.5f ? 1.0f : 0.0f;
}

}  // namespace

void mask_targets(const MaskTargets& op, Stream stream) {
  if (op.count == 0) return;
  const dim3 block(kLanes, kRows),
      grid(static_cast<unsigned>(op.count), ceil_div<unsigned>(op.size, kRows), ceil_div<unsigned>(op.size, kLanes));
  op.narrow ? launch("mask_targets", mask_targets_of_rois<int16_t>, grid, block, 0, stream, op)
            : launch("mask_targets", mask_targets_of_rois<int32_t>, grid, block, 0, stream, op);
}

}  // namespace htc::cuda
