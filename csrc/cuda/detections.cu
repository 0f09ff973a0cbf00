// Detections in two launches, without waiting for the device.
//
// detection_scores: a warp per row. Softmax of every stage, their mean; what exceeds the threshold goes to a list of
// its image, as a key that sorts by score, then by row and class, in whatever order the warps come.
//
// detection_walk: a block per image. The best of the list, 64 at a time, moved, met by what is kept so far; it ends
// when enough are kept, so that of 80 000 candidates no more than some thousand are ever moved.
#include "cuda/nms_chunk.cuh"
#include "cuda/rows.cuh"

namespace htc::cuda {
namespace {

constexpr int kScoreThreads = 256, kScoreRows = kScoreThreads / 32;
constexpr int kClasses = 4;   // of a lane, between two visits to the list's length
constexpr int kWanted = 900;  // keys sorted at a time, if they are many: some hundred are usually looked at

struct DetectParams {
  Detect op;
  NmsParams nms;   // threshold and bound; what is kept is written straight to the results
  int64_t most;    // candidates of an image
  int32_t* found;  // [N]: how many there are
  uint64_t* keys;  // [N, most]
};

// A class' logit in one of the softmaxes: a stage's, or the mean of all.
__device__ __forceinline__ float logit_of(const Detect& op, int image, int row, int softmax, int column) {
  if (!op.average_logits) {
    const Rows& rows = op.logits[softmax];
    return load(rows, start_of(rows, image, row) + column * rows.stride_c);
  }
  float sum = 0.0f;
  for (int s = 0; s < op.stages; s++) {
    const float one = load(op.logits[s], start_of(op.logits[s], image, row) + column * op.logits[s].stride_c);
    sum = s == 0 ? one : sum + one;
  }
  return sum / static_cast<float>(op.stages);
}

struct Softmax {
  float most, sum;
};

// Of a whole row, by one warp: the same for all its lanes.
__device__ __forceinline__ Softmax softmax_of(const Detect& op, int image, int row, int softmax) {
  const int lane = static_cast<int>(threadIdx.x % 32), columns = static_cast<int>(op.classes) + 1;
  float most = -INFINITY, sum = 0.0f;
  for (int c = lane; c < columns; c += 32) most = fmaxf(most, logit_of(op, image, row, softmax, c));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
  for (int c = lane; c < columns; c += 32) sum += exponential(logit_of(op, image, row, softmax, c) - most);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  return {most, sum};
}

__global__ void __launch_bounds__(kScoreThreads) detection_scores(const __grid_constant__ DetectParams p) {
  const Detect& op = p.op;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kScoreRows + threadIdx.x / 32;
  if (at >= op.moves.images * op.moves.rows || (op.valid != nullptr && !op.valid[at])) return;
  const int image = static_cast<int>(at / op.moves.rows), row = static_cast<int>(at - image * op.moves.rows);
  const int lane = static_cast<int>(threadIdx.x % 32), classes = static_cast<int>(op.classes);
  const int softmaxes = op.average_logits ? 1 : op.stages;
  Softmax mine{0.0f, 1.0f};  // lane s keeps that of stage s
  for (int s = 0; s < softmaxes; s++) {
    const Softmax one = softmax_of(op, image, row, s);
    if (lane == s) mine = one;
  }
  const bool whole = op.moves.by_class || is_finite(moved_box(op.moves, image, row, 0));
  for (int first = 0; first < classes; first += 32 * kClasses) {
    float scores[kClasses];
    unsigned votes[kClasses];
    int total = 0;
#pragma unroll
    for (int j = 0; j < kClasses; j++) {
      const int c = first + 32 * j + lane;
      scores[j] = 0.0f;
      for (int s = 0; s < softmaxes; s++) {
        const float most = __shfl_sync(~0u, mine.most, s), sum = __shfl_sync(~0u, mine.sum, s);
        if (c < classes) scores[j] += exponential(logit_of(op, image, row, s, c) - most) / sum;
      }
      scores[j] /= static_cast<float>(softmaxes);
      bool wanted = whole && c < classes && scores[j] > op.score_threshold;
      if (wanted && op.moves.by_class) wanted = is_finite(moved_box(op.moves, image, row, c));
      votes[j] = __ballot_sync(~0u, wanted);
      total += __popc(votes[j]);
    }
    int place = 0;
    if (lane == 0 && total > 0) place = atomicAdd(&p.found[image], total);
    place = __shfl_sync(~0u, place, 0);
#pragma unroll
    for (int j = 0; j < kClasses; j++) {
      const auto index = static_cast<uint32_t>(row * op.classes + first + 32 * j + lane);
      const int mine_at = place + __popc(votes[j] & ((1u << lane) - 1));
      if (votes[j] >> lane & 1) p.keys[image * p.most + mine_at] = sort_key(scores[j], index);
      place += __popc(votes[j]);
    }
  }
}

// Calls visit(key) for every key of a list, spread over the block's threads; several loads are on their way at a time.
struct KeyList {
  const uint64_t* keys;
  int count;

  template <class Visit>
  __device__ __forceinline__ void operator()(Visit visit) const {
    constexpr int kLoads = 4;
    for (int first = static_cast<int>(threadIdx.x); first < count; first += kLoads * kThreads) {
      uint64_t some[kLoads];
#pragma unroll
      for (int j = 0; j < kLoads; j++) some[j] = first + j * kThreads < count ? keys[first + j * kThreads] : 0;
#pragma unroll
      for (int j = 0; j < kLoads; j++)
        if (some[j] != 0) visit(some[j]);
    }
  }
};

// As next_batch, whose histograms are slow where all scores are alike: a bound that about kWanted keys reach is read
// off a sorted sample, every so manieth key. What comes out at last does not depend on where batches end.
__device__ __forceinline__ int sampled_batch(SelectShared& s, KeyList list, uint64_t& upper) {
  const int thread = static_cast<int>(threadIdx.x), step = ceil_div(list.count, kBatch), samples = list.count / step;
  for (int i = thread; i < samples; i += kThreads) {
    const uint64_t key = list.keys[i * step];
    s.keys[i] = key < upper ? key : 0;
  }
  __syncthreads();
  sort_batch(s, samples);
  if (step == 1) return upper = 0, samples;
  const uint64_t bound = s.keys[min(max(kWanted / step, 1), samples) - 1];
  if (thread == 0) s.filled = 0;
  __syncthreads();
  if (bound != 0)
    list([&](uint64_t key) {
      if (key >= upper || key < bound) return;
      const int at = atomicAdd(&s.filled, 1);
      if (at < kBatch) s.keys[at] = key;
    });
  __syncthreads();
  const int size = s.filled;
  if (size == 0 || size > kBatch) return next_batch(s, list, upper);
  sort_batch(s, size);
  upper = bound;
  return size;
}

// The chunk's boxes, moved, where compare_chunk looks for them.
__device__ __forceinline__ void load_chunk(const DetectParams& p, WalkShared& s, int image, int begin, int size) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < 2) s.gone[thread] = 0;
  if (thread >= kChunk) return;
  if (begin + thread >= size) {
    s.boxes[thread] = {};
    s.classes[thread] = -1;
    return;
  }
  const int64_t index = index_of(s.select.keys[begin + thread]), row = index / p.op.classes;
  const auto label = static_cast<int>(index - row * p.op.classes);
  s.boxes[thread] = moved_box(p.op.moves, image, static_cast<int>(row), p.op.moves.by_class ? label : 0);
  s.classes[thread] = label;
}

// What stays of a chunk becomes detections, behind those that are there.
__device__ __forceinline__ void keep_chunk(const DetectParams& p, WalkShared& s, int64_t base, int begin, int size,
                                           int kept, int limit) {
  const int thread = static_cast<int>(threadIdx.x);
  const uint64_t stays = settle_chunk(s, min(kChunk, size - begin));
  for (int i = thread; i < kChunk; i += 32) {
    const int place = kept + __popcll(stays & ((uint64_t{1} << i) - 1));
    if (!(stays >> i & 1) || place >= limit) continue;
    store_box(p.op.boxes + 4 * (base + place), s.boxes[i]);
    p.nms.kept_classes[base + place] = s.classes[i];
    p.op.scores[base + place] = score_of(s.select.keys[begin + i]);
  }
  if (thread == 0) s.kept = min(kept + __popcll(stays), limit);
}

__global__ void __launch_bounds__(kThreads, 1) detection_walk(const __grid_constant__ DetectParams p) {
  HTC_SHARED(WalkShared, s);
  const int image = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int found = p.found[image], limit = static_cast<int>(p.op.max_output);
  const int64_t base = image * p.op.max_output;
  int kept = 0;
  uint64_t upper = found == 0 ? 0 : ~uint64_t{0};
  const KeyList candidates{p.keys + image * p.most, found};
  while (kept < limit && upper != 0) {
    const int size = sampled_batch(s.select, candidates, upper);
    for (int begin = 0; begin < size && kept < limit; begin += kChunk) {
      load_chunk(p, s, image, begin, size);
      __syncthreads();
      compare_chunk(p.nms, s, base, kept);
      __syncthreads();
      if (thread < 32) keep_chunk(p, s, base, begin, size, kept, limit);
      __syncthreads();
      kept = s.kept;
    }
    __syncthreads();
  }
  for (int i = kept + thread; i < limit; i += kThreads) {
    store_box(p.op.boxes + 4 * (base + i), {});
    p.nms.kept_classes[base + i] = -1;
    p.op.scores[base + i] = 0.0f;
  }
  if (thread == 0) p.op.counts[image] = kept;
}

DetectParams detect_params(const Detect& op, char* memory, int64_t& bytes) {
  DetectParams p{};
  p.op = op;
  BatchedNms nms{};
  nms.iou_threshold = op.iou_threshold;
  p.nms = nms_params(nms, nullptr, bytes, false);
  p.nms.kept_boxes = reinterpret_cast<Box*>(op.boxes);
  p.nms.kept_classes = op.labels;
  p.most = op.moves.rows * op.classes;
  Pieces pieces{memory};
  pieces.take(p.found, op.moves.images);
  pieces.take(p.keys, op.moves.images * p.most);
  bytes = pieces.used;
  return p;
}

}  // namespace

int64_t detections_workspace(const Detect& op) {
  int64_t bytes = 0;
  detect_params(op, nullptr, bytes);
  return bytes;
}

void detections(const Detect& op, void* workspace, Stream stream) {
  int64_t bytes = 0;
  const DetectParams p = detect_params(op, static_cast<char*>(workspace), bytes);
  fill_zero(p.found, static_cast<size_t>(op.moves.images) * sizeof(int32_t), stream);
  const int64_t blocks = ceil_div<int64_t>(op.moves.images * op.moves.rows, kScoreRows);
  launch("detection_scores", detection_scores, static_cast<unsigned>(blocks), kScoreThreads, 0, stream, p);
  launch("detection_walk", detection_walk, static_cast<unsigned>(op.moves.images), kThreads, 0, stream, p);
}

}  // namespace htc::cuda
