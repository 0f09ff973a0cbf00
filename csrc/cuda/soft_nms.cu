// Soft-NMS by class. Picks follow one another by nature; a block takes one group of classes and lets all its threads
// decay and search at once, so that a pick costs one pass over the group's boxes.
//   nms_keys   candidates and groups, as for hard NMS
//   soft_walk  per group: pick the best, decay those of its class, drop what falls below min_score, again
//   nms_merge  the best of all groups, with the scores they were picked at
#include "cuda/nms_groups.cuh"

namespace htc::cuda {
namespace {

struct SoftParams {
  NmsParams nms;      // kept_boxes and kept_classes hold the group's members here
  uint64_t* members;  // their keys; 0 once picked or dropped
  bool gaussian;
  float iou_threshold, sigma, min_score;
};

struct SoftShared {
  uint64_t best[kWarps];
  Box box;
  int64_t cls;
  int offset, size;
};

__device__ __forceinline__ float decayed(const SoftParams& q, float score, const Box& a, const Box& b) {
  const float width = fmaxf(fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1), 0.0f);
  const float height = fmaxf(fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1), 0.0f);
  const float shared = width * height;
  if (!(shared > 0.0f)) return score;
  const float iou = shared / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared);
  if (q.gaussian) return score * expf(-(iou * iou) / q.sigma);
  return iou >= q.iou_threshold ? score * (1.0f - iou) : score;
}

// Brings the group's candidates together; in which order does not matter.
__device__ __forceinline__ void collect(const SoftParams& q, SoftShared& s, int64_t base, int group) {
  const NmsParams& p = q.nms;
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) {
    if (p.group_of[i] != group) continue;
    const uint64_t key = p.keys[i];
    if (score_of(key) == INFINITY) continue;
    const int64_t at = base + atomicAdd(&s.size, 1);
    q.members[at] = key;
    p.kept_boxes[at] = load_box(p.boxes + 4 * i);
    p.kept_classes[at] = p.classes[i];
  }
  __syncthreads();
}

// Decays this thread's members by the pick (if there is one) and finds the best that is left of them.
__device__ __forceinline__ uint64_t decay_and_find(const SoftParams& q, const SoftShared& s, int64_t base, bool picked,
                                                   int64_t& where) {
  uint64_t best = 0;
  for (int64_t at = base + threadIdx.x; at < base + s.size; at += kThreads) {
    uint64_t key = q.members[at];
    if (key == 0) continue;
    if (picked && q.nms.kept_classes[at] == s.cls) {
      const float score = decayed(q, score_of(key), s.box, q.nms.kept_boxes[at]);
      key = score >= q.min_score ? sort_key(score, static_cast<uint32_t>(index_of(key))) : 0;
      q.members[at] = key;
    }
    if (key > best) {
      best = key;
      where = at;
    }
  }
  return best;
}

__device__ __forceinline__ uint64_t best_of_block(SoftShared& s, uint64_t mine) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const auto high = __shfl_xor_sync(~0u, static_cast<uint32_t>(mine >> 32), step);
    const auto low = __shfl_xor_sync(~0u, static_cast<uint32_t>(mine), step);
    mine = max(mine, static_cast<uint64_t>(high) << 32 | low);
  }
  if (threadIdx.x % 32 == 0) s.best[threadIdx.x / 32] = mine;
  __syncthreads();
  uint64_t best = 0;
  for (int w = 0; w < kWarps; w++) best = max(best, s.best[w]);
  return best;
}

__global__ void __launch_bounds__(kThreads) soft_walk(const __grid_constant__ SoftParams q) {
  HTC_SHARED(SoftShared, s);
  const NmsParams& p = q.nms;
  const int group = static_cast<int>(blockIdx.x);
  if (threadIdx.x == 0) s.size = 0;
  const int64_t base = group_offset(p, 0, group, s.offset);
  collect(q, s, base, group);
  const auto limit = static_cast<int>(min(p.max_output, p.count));
  int kept = 0;
  while (kept < limit) {
    int64_t where = 0;
    const uint64_t mine = decay_and_find(q, s, base, kept > 0, where);
    const uint64_t best = best_of_block(s, mine);
    if (best == 0) break;
    if (mine == best) {
      s.box = p.kept_boxes[where];
      s.cls = p.kept_classes[where];
      q.members[where] = 0;
      p.kept_keys[base + kept] = best;
    }
    kept++;
    __syncthreads();
  }
  if (threadIdx.x == 0) p.kept[group] = kept;
}

SoftParams soft_params(const SoftNms& op, int32_t* count, char* memory, int64_t& bytes) {
  BatchedNms hard{};
  hard.images = 1;
  hard.count = op.count;
  hard.boxes = op.boxes;
  hard.scores = op.scores;
  hard.classes = op.classes;
  hard.has_score_threshold = true;
  hard.score_threshold = std::nextafter(op.min_score, -INFINITY);  // candidates score min_score or more
  hard.max_output = op.max_output;
  hard.indices = op.indices;
  hard.counts = count;
  SoftParams q{};
  q.nms = nms_params(hard, memory, bytes, false);
  q.nms.decayed = op.decayed;
  q.members = reinterpret_cast<uint64_t*>(memory + bytes);
  bytes += op.count * static_cast<int64_t>(sizeof(uint64_t));
  q.gaussian = op.gaussian;
  q.iou_threshold = op.iou_threshold;
  q.sigma = op.sigma;
  q.min_score = op.min_score;
  return q;
}

}  // namespace

int64_t soft_nms_workspace(const SoftNms& op) {
  int64_t bytes = 0;
  soft_params(op, nullptr, nullptr, bytes);
  return bytes;
}

void soft_nms(const SoftNms& op, int32_t* count, void* workspace, Stream stream) {
  int64_t bytes = 0;
  const SoftParams q = soft_params(op, count, static_cast<char*>(workspace), bytes);
  launch_keys(q.nms, stream);
  launch("soft_walk", soft_walk, q.nms.groups, kThreads, 0, stream, q);
  launch("nms_merge", nms_merge, 1, kThreads, 0, stream, q.nms);
}

}  // namespace htc::cuda
