// Batched NMS of fixed shape, without waiting for the device. Classes go to groups, and a group of an image is one
// block's: it takes its boxes best first, 64 at a time, and stops when it has kept as many as are wanted at all.
//   nms_keys   which boxes are candidates, as keys that sort by score and then by index; sizes of the groups
//   nms_walk   per (image, group): the kept ones, best first
//   nms_merge  per image: the best of all groups
// Selection and sorting go through batches in shared memory, so that 80 000 candidates of which 100 are wanted cost
// little more than reading them, and nothing is ever quadratic in the number of candidates in memory.
#include <cmath>

#include "cuda/nms_select.cuh"
#include "geometry.h"

namespace htc::cuda {
namespace {

constexpr int kChunk = 64;
constexpr uint8_t kNoGroup = 255;

struct NmsParams {
  int images, groups;
  int64_t count, padded;  // boxes per image; the same rounded up to 16
  const float* boxes;
  const float* scores;
  const int64_t* classes;  // or nothing
  float threshold, bound;  // IoU > threshold is sure not to be where shared <= union * bound
  bool has_score_threshold;
  float score_threshold;
  int64_t max_output;
  int64_t* indices;
  int32_t* counts;
  // Workspace: per box, and per (image, group).
  Box* kept_boxes;
  int64_t* kept_classes;
  uint64_t* keys;
  uint64_t* kept_keys;
  uint8_t* group_of;
  int32_t* sizes;
  int32_t* kept;
};

struct GroupCounts {
  int32_t of[kMaxGroups];
};

__device__ __forceinline__ Box load_box(const void* address) {
  const float4 b = *static_cast<const float4*>(address);
  return {b.x, b.y, b.z, b.w};
}

__global__ void __launch_bounds__(kThreads) nms_keys(const __grid_constant__ NmsParams p) {
  HTC_SHARED(GroupCounts, counts);
  for (int g = static_cast<int>(threadIdx.x); g < p.groups; g += kThreads) counts.of[g] = 0;
  __syncthreads();
  const int image = static_cast<int>(blockIdx.y);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, at = image * p.count + i;
  if (i < p.count) {
    const float score = p.scores[at];
    const Box box = load_box(p.boxes + 4 * at);
    const bool wanted = score == score && (!p.has_score_threshold || score > p.score_threshold);
    int group = kNoGroup;
    if (wanted && is_finite(box)) {
      group = p.classes == nullptr ? 0 : static_cast<int>(static_cast<uint64_t>(p.classes[at]) % p.groups);
      atomicAdd(&counts.of[group], 1);
    }
    p.keys[at] = sort_key(score, static_cast<uint32_t>(i));
    p.group_of[image * p.padded + i] = static_cast<uint8_t>(group);
  } else if (i < p.padded) {
    p.group_of[image * p.padded + i] = kNoGroup;
  }
  __syncthreads();
  for (int g = static_cast<int>(threadIdx.x); g < p.groups; g += kThreads)
    if (counts.of[g] > 0) atomicAdd(&p.sizes[image * p.groups + g], counts.of[g]);
}

// As plain IoU decides; the division is made only where it can matter.
__device__ __forceinline__ bool overlaps(const NmsParams& p, const Box& a, const Box& b) {
  const float width = fmaxf(fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1), 0.0f);
  const float height = fmaxf(fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1), 0.0f);
  const float shared = width * height;
  const float together = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared;
  if (p.threshold > 0.0f && !(shared > together * p.bound)) return false;
  return shared / together > p.threshold;
}

struct WalkShared {
  SelectShared select;
  Box boxes[kChunk];
  int64_t classes[kChunk];
  uint64_t earlier[kChunk];  // the chunk's better boxes that overlap this one
  unsigned gone[2];          // bits: suppressed by what was kept before
  int offset, kept;
};

// Where the group's kept ones begin: behind the candidates of the groups before it.
__device__ __forceinline__ int group_offset(const NmsParams& p, int image, int group, int& shared_sum) {
  if (threadIdx.x == 0) shared_sum = 0;
  __syncthreads();
  for (int g = static_cast<int>(threadIdx.x); g < group; g += kThreads)
    atomicAdd(&shared_sum, p.sizes[image * p.groups + g]);
  __syncthreads();
  return shared_sum;
}

// Marks the chunk's boxes that a kept one suppresses, and each box's better ones in the chunk that overlap it.
__device__ __forceinline__ void compare_chunk(const NmsParams& p, WalkShared& s, int64_t base, int kept) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const Box mine[2] = {s.boxes[lane], s.boxes[lane + 32]};
  const int64_t classes[2] = {s.classes[lane], s.classes[lane + 32]};
  bool gone[2] = {false, false};
  for (int j = warp; j < kept; j += kWarps) {
    const Box better = load_box(p.kept_boxes + base + j);
    const int64_t own = p.kept_classes[base + j];
#pragma unroll
    for (int h = 0; h < 2; h++) gone[h] = gone[h] || (own == classes[h] && overlaps(p, better, mine[h]));
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const unsigned bits = __ballot_sync(~0u, gone[h]);
    if (lane == 0 && bits != 0) atomicOr(&s.gone[h], bits);
  }
  for (int i = warp; i < kChunk; i += kWarps) {
    const Box box = s.boxes[i];
    unsigned bits[2];
#pragma unroll
    for (int h = 0; h < 2; h++)
      bits[h] = __ballot_sync(~0u, lane + 32 * h < i && s.classes[i] == classes[h] && overlaps(p, mine[h], box));
    if (lane == 0) s.earlier[i] = bits[0] | static_cast<uint64_t>(bits[1]) << 32;
  }
}

// One warp decides the chunk: a box stays once all better ones that overlap it are gone, and goes once one of them
// stays. The best undecided box is always decidable; usually a few rounds decide all.
__device__ __forceinline__ uint64_t settle_chunk(const WalkShared& s, int size) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint64_t stays = 0, goes = s.gone[0] | static_cast<uint64_t>(s.gone[1]) << 32;
  if (size < kChunk) goes |= ~uint64_t{0} << size;
  const uint64_t earlier[2] = {s.earlier[lane], s.earlier[lane + 32]};
  while ((stays | goes) != ~uint64_t{0}) {
    uint64_t more_stay = 0, more_go = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const bool open = !((stays | goes) >> (lane + 32 * h) & 1);
      more_stay |= static_cast<uint64_t>(__ballot_sync(~0u, open && (earlier[h] & ~goes) == 0)) << 32 * h;
      more_go |= static_cast<uint64_t>(__ballot_sync(~0u, open && (earlier[h] & stays) != 0)) << 32 * h;
    }
    stays |= more_stay;
    goes |= more_go;
  }
  return stays;
}

__global__ void __launch_bounds__(kThreads) nms_walk(const __grid_constant__ NmsParams p) {
  HTC_SHARED(WalkShared, s);
  const int image = static_cast<int>(blockIdx.y), group = static_cast<int>(blockIdx.x),
            thread = static_cast<int>(threadIdx.x);
  const int64_t first = image * p.count;
  const int64_t base = first + group_offset(p, image, group, s.offset);
  const auto limit = static_cast<int>(min(p.max_output, p.count));
  auto candidates = [&](auto visit) {
    const uint4* words = reinterpret_cast<const uint4*>(p.group_of + image * p.padded);
    for (int64_t w = thread; w < p.padded / 16; w += kThreads) {
      const uint4 raw = words[w];
      const uint32_t four[4] = {raw.x, raw.y, raw.z, raw.w};
      for (int i = 0; i < 16; i++)
        if ((four[i / 4] >> i % 4 * 8 & 255u) == static_cast<uint32_t>(group)) visit(p.keys[first + w * 16 + i]);
    }
  };
  int kept = 0;
  uint64_t upper = ~uint64_t{0};
  while (kept < limit && upper != 0) {
    const int size = next_batch(s.select, candidates, upper);
    for (int begin = 0; begin < size && kept < limit; begin += kChunk) {
      if (thread < kChunk) {
        const uint64_t key = begin + thread < size ? s.select.keys[begin + thread] : 0;
        const int64_t at = first + (key != 0 ? index_of(key) : 0);
        s.boxes[thread] = load_box(p.boxes + 4 * at);
        s.classes[thread] = p.classes == nullptr ? 0 : p.classes[at];
        if (thread < 2) s.gone[thread] = 0;
      }
      __syncthreads();
      compare_chunk(p, s, base, kept);
      __syncthreads();
      if (thread < 32) {
        const uint64_t stays = settle_chunk(s, min(kChunk, size - begin));
        for (int i = thread; i < kChunk; i += 32) {
          const int place = kept + __popcll(stays & ((uint64_t{1} << i) - 1));
          if (!(stays >> i & 1) || place >= limit) continue;
          p.kept_boxes[base + place] = s.boxes[i];
          p.kept_classes[base + place] = s.classes[i];
          p.kept_keys[base + place] = s.select.keys[begin + i];
        }
        if (thread == 0) s.kept = min(kept + __popcll(stays), limit);
      }
      __syncthreads();
      kept = s.kept;
    }
    __syncthreads();
  }
  if (thread == 0) p.kept[image * p.groups + group] = kept;
}

struct MergeShared {
  SelectShared select;
  int32_t offsets[kMaxGroups];
};

__global__ void __launch_bounds__(kThreads) nms_merge(const __grid_constant__ NmsParams p) {
  HTC_SHARED(MergeShared, s);
  const int image = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int32_t* sizes = p.sizes + image * p.groups;
  const int32_t* kept = p.kept + image * p.groups;
  if (thread < p.groups) s.offsets[thread] = sizes[thread];
  __syncthreads();
  for (int step = 1; step < p.groups; step *= 2) {
    const int before = thread >= step && thread < p.groups ? s.offsets[thread - step] : 0;
    __syncthreads();
    if (thread < p.groups) s.offsets[thread] += before;
    __syncthreads();
  }
  auto survivors = [&](auto visit) {
    for (int g = thread / 32; g < p.groups; g += kWarps) {
      const uint64_t* keys = p.kept_keys + image * p.count + s.offsets[g] - sizes[g];
      for (int i = thread % 32; i < kept[g]; i += 32) visit(keys[i]);
    }
  };
  int64_t* out = p.indices + image * p.max_output;
  int64_t written = 0;
  uint64_t upper = ~uint64_t{0};
  while (written < p.max_output && upper != 0) {
    const int size =
        static_cast<int>(min(static_cast<int64_t>(next_batch(s.select, survivors, upper)), p.max_output - written));
    for (int i = thread; i < size; i += kThreads) out[written + i] = index_of(s.select.keys[i]);
    written += size;
    __syncthreads();
  }
  for (int64_t i = written + thread; i < p.max_output; i += kThreads) out[i] = -1;
  if (thread == 0) p.counts[image] = static_cast<int32_t>(written);
}

// Hands out the workspace piece by piece, each on a 16-byte boundary; with no memory it only adds up.
struct Pieces {
  char* memory;
  int64_t used = 0;

  template <class T>
  void take(T*& pointer, int64_t count) {
    pointer = reinterpret_cast<T*>(memory + used);
    used += (count * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
  }
};

NmsParams nms_params(const BatchedNms& op, char* memory, int64_t& bytes) {
  NmsParams p{};
  p.images = static_cast<int>(op.images);
  p.groups = 1;
  while (op.classes != nullptr && p.groups < kMaxGroups && p.groups * 8 < op.count) p.groups *= 2;
  p.count = op.count;
  p.padded = (op.count + 15) / 16 * 16;
  p.boxes = op.boxes;
  p.scores = op.scores;
  p.classes = op.classes;
  p.threshold = static_cast<float>(op.iou_threshold);
  if (p.threshold > op.iou_threshold) p.threshold = std::nextafter(p.threshold, -INFINITY);
  p.bound = p.threshold * (1.0f - 1e-5f);
  p.has_score_threshold = op.has_score_threshold;
  p.score_threshold = op.score_threshold;
  p.max_output = op.max_output;
  p.indices = op.indices;
  p.counts = op.counts;
  Pieces pieces{memory};
  const int64_t all = op.images * op.count, lists = op.images * p.groups;
  pieces.take(p.kept_boxes, all);
  pieces.take(p.kept_classes, all);
  pieces.take(p.keys, all);
  pieces.take(p.kept_keys, all);
  pieces.take(p.group_of, op.images * p.padded);
  pieces.take(p.sizes, lists);
  pieces.take(p.kept, lists);
  bytes = pieces.used;
  return p;
}

}  // namespace

int64_t batched_nms_workspace(const BatchedNms& op) {
  int64_t bytes = 0;
  nms_params(op, nullptr, bytes);
  return bytes;
}

void batched_nms(const BatchedNms& op, void* workspace, Stream stream) {
  if (op.images == 0) return;
  int64_t bytes = 0;
  const NmsParams p = nms_params(op, static_cast<char*>(workspace), bytes);
  fill_zero(p.sizes, sizeof(int32_t) * static_cast<size_t>(op.images * p.groups), stream);
  const auto images = static_cast<unsigned>(op.images);
  launch("nms_keys", nms_keys, dim3(static_cast<unsigned>(ceil_div<int64_t>(p.padded, kThreads)), images), kThreads, 0,
         stream, p);
  launch("nms_walk", nms_walk, dim3(p.groups, images), kThreads, 0, stream, p);
  launch("nms_merge", nms_merge, images, kThreads, 0, stream, p);
}

}  // namespace htc::cuda
