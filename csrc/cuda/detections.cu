// Detections in two launches, without waiting for the device.
//
// detection_scores: a warp per row. Softmax of every stage, their mean; what exceeds the threshold is written down for
// its image, in whatever order the warps come.
//
// detection_walk: a block per image. The best of the scores, sorted, and 64 at a time met by what is kept so far; it
// ends when enough are kept, so that of 80 000 candidates no more than some hundred are ever moved.
#include "cuda/detection_batch.cuh"

namespace htc::cuda {
namespace {

constexpr int kScoreThreads = 256, kScoreRows = kScoreThreads / 32;
constexpr int kClasses = 4;  // of a lane, loaded together

struct DetectParams {
  Detect op;
  NmsParams nms;     // threshold and bound; what is kept is written straight to the results
  int stride;        // of a row of scores: classes, rounded up to 4
  uint64_t* best;    // [N, R]
  uint32_t* scores;  // [N, R, stride]
};

using Logits = float[kClasses];  // of classes first + lane, 32 further, ...

template <class T>
__device__ __forceinline__ void load_logits(const Rows& rows, int64_t start, int first, int columns, Logits& found) {
#pragma unroll
  for (int j = 0; j < kClasses; j++) {
    const int c = first + 32 * j + static_cast<int>(threadIdx.x % 32);
    const T* logits = static_cast<const T*>(rows.data) + start;
    found[j] = c < columns ? to_float(logits[c * rows.stride_c]) : -INFINITY;
  }
}
__device__ __forceinline__ void load_logits(const Rows& rows, int image, int row, int first, int columns,
                                            Logits& found) {
  const int64_t start = start_of(rows, image, row);
  switch (rows.dtype) {
    case DType::f16: return load_logits<f16>(rows, start, first, columns, found);
    case DType::bf16: return load_logits<bf16>(rows, start, first, columns, found);
    default: return load_logits<float>(rows, start, first, columns, found);
  }
}

// Logits in one of the softmaxes: a stage's, or the mean of all.
__device__ __forceinline__ void logits_of(const Detect& op, int image, int row, int softmax, int first, Logits& found) {
  const int columns = static_cast<int>(op.classes) + 1;
  load_logits(op.logits[op.average_logits ? 0 : softmax], image, row, first, columns, found);
  if (!op.average_logits) return;
  for (int s = 1; s < op.stages; s++) {
    Logits one;
    load_logits(op.logits[s], image, row, first, columns, one);
#pragma unroll
    for (int j = 0; j < kClasses; j++) found[j] += one[j];
  }
#pragma unroll
  for (int j = 0; j < kClasses; j++) found[j] /= static_cast<float>(op.stages);
}

struct Softmax {
  float most, sum;
};

// Of a whole row, by one warp: the same for all its lanes.
__device__ __forceinline__ Softmax softmax_of(const Detect& op, int image, int row, int softmax) {
  const int lane = static_cast<int>(threadIdx.x % 32), columns = static_cast<int>(op.classes) + 1;
  float most = -INFINITY, sum = 0.0f;
  Logits some;
  for (int first = 0; first < columns; first += 32 * kClasses) {
    logits_of(op, image, row, softmax, first, some);
#pragma unroll
    for (int j = 0; j < kClasses; j++) most = fmaxf(most, some[j]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
  for (int first = 0; first < columns; first += 32 * kClasses) {
    if (columns > 32 * kClasses) logits_of(op, image, row, softmax, first, some);
#pragma unroll
    for (int j = 0; j < kClasses; j++)
      if (first + 32 * j + lane < columns) sum += exponential(some[j] - most);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  return {most, sum};
}

__global__ void __launch_bounds__(kScoreThreads) detection_scores(const __grid_constant__ DetectParams p) {
  const Detect& op = p.op;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kScoreRows + threadIdx.x / 32;
  if (at >= op.moves.images * op.moves.rows) return;
  const int image = static_cast<int>(at / op.moves.rows), row = static_cast<int>(at - image * op.moves.rows);
  const int lane = static_cast<int>(threadIdx.x % 32), classes = static_cast<int>(op.classes);
  const int softmaxes = op.average_logits ? 1 : op.stages;
  uint32_t* out = p.scores + at * p.stride;
  const bool whole =
      (op.valid == nullptr || op.valid[at]) && (op.moves.by_class || is_finite(moved_box(op.moves, image, row, 0)));
  if (!whole) {
    for (int c = lane; c < p.stride; c += 32) out[c] = 0;
    if (lane == 0) p.best[at] = 0;
    return;
  }
  Softmax mine{0.0f, 1.0f};  // lane s keeps that of stage s
  for (int s = 0; s < softmaxes; s++) {
    const Softmax one = softmax_of(op, image, row, s);
    if (lane == s) mine = one;
  }
  uint32_t best = 0, total = 0;
  for (int first = 0; first < classes; first += 32 * kClasses) {
    Logits scores = {}, some;
    for (int s = 0; s < softmaxes; s++) {
      const float most = __shfl_sync(~0u, mine.most, s), sum = __shfl_sync(~0u, mine.sum, s);
      logits_of(op, image, row, s, first, some);
#pragma unroll
      for (int j = 0; j < kClasses; j++) scores[j] += exponential(some[j] - most) / sum;
    }
#pragma unroll
    for (int j = 0; j < kClasses; j++) {
      const int c = first + 32 * j + lane;
      scores[j] /= static_cast<float>(softmaxes);
      bool wanted = c < classes && scores[j] > op.score_threshold;
      if (wanted && op.moves.by_class) wanted = is_finite(moved_box(op.moves, image, row, c));
      const uint32_t score = wanted ? static_cast<uint32_t>(sort_key(scores[j], 0) >> 32) : 0;
      if (c < p.stride) out[c] = score;
      best = max(best, score);
      total += wanted;
    }
  }
  best = __reduce_max_sync(~0u, best);
  total = __reduce_add_sync(~0u, total);
  if (lane == 0) p.best[at] = static_cast<uint64_t>(best) << 32 | total;
}

// The boxes of the window's keys, moved.
__device__ __forceinline__ void load_window(const DetectParams& p, DetectionShared& s, int image, int begin, int size) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < 2) s.gone[i] = 0;
  s.classes[i] = -1;
  s.boxes[i] = {};
  if (begin + i >= size) return;
  const auto index = static_cast<uint32_t>(index_of(s.select.keys[begin + i]));
  const auto classes = static_cast<uint32_t>(p.op.classes), row = index / classes, label = index - row * classes;
  s.boxes[i] = moved_box(p.op.moves, image, static_cast<int>(row), p.op.moves.by_class ? static_cast<int>(label) : 0);
  s.classes[i] = static_cast<int>(label);
}

// Marks the chunk's boxes that a kept one suppresses, and each box's better ones in the chunk that overlap it.
__device__ __forceinline__ void compare_chunk(const DetectParams& p, DetectionShared& s, int64_t base, int chunk,
                                              int kept) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const Box mine[2] = {s.boxes[chunk + lane], s.boxes[chunk + lane + 32]};
  const int classes[2] = {s.classes[chunk + lane], s.classes[chunk + lane + 32]};
  bool gone[2] = {false, false};
  for (int j = warp; j < kept; j += kWarps) {
    const bool near = j < kRemembered;
    const Box better = near ? s.kept_boxes[j] : load_box(p.op.boxes + 4 * (base + j));
    const int own = near ? s.kept_classes[j] : static_cast<int>(p.op.labels[base + j]);
#pragma unroll
    for (int h = 0; h < 2; h++) gone[h] = gone[h] || (own == classes[h] && overlaps(p.nms, better, mine[h]));
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const unsigned bits = __ballot_sync(~0u, gone[h]);
    if (lane == 0 && bits != 0) atomicOr(&s.gone[h], bits);
  }
  for (int i = warp; i < kChunk; i += kWarps) {
    const uint64_t bits = better_overlaps(p.nms, mine, classes, s.boxes[chunk + i], s.classes[chunk + i], i);
    if (lane == 0) s.earlier[i] = bits;
  }
}

// By one warp: what stays of a chunk of `size` becomes detections, behind those that are there.
__device__ __forceinline__ void keep_chunk(const DetectParams& p, DetectionShared& s, int64_t base, int chunk,
                                           const uint64_t* keys, int size, int kept) {
  const int lane = static_cast<int>(threadIdx.x), limit = static_cast<int>(p.op.max_output);
  uint64_t gone = s.gone[0] | static_cast<uint64_t>(s.gone[1]) << 32;
  if (size < kChunk) gone |= ~uint64_t{0} << size;
  const uint64_t stays = settle_chunk(s.earlier, gone);
  for (int i = lane; i < kChunk; i += 32) {
    const int place = kept + __popcll(stays & ((uint64_t{1} << i) - 1));
    if (!(stays >> i & 1) || place >= limit) continue;
    const Box box = s.boxes[chunk + i];
    const int label = s.classes[chunk + i];
    if (place < kRemembered) s.kept_boxes[place] = box, s.kept_classes[place] = label;
    store_box(p.op.boxes + 4 * (base + place), box);
    p.op.labels[base + place] = label;
    p.op.scores[base + place] = score_of(keys[i]);
  }
  __syncwarp();
  if (lane < 2) s.gone[lane] = 0;
  if (lane == 0) s.kept = min(kept + __popcll(stays), limit);
}

// Walks through a batch until enough are kept; returns how many are.
__device__ __forceinline__ int keep_batch(const DetectParams& p, DetectionShared& s, int image, int size, int kept) {
  const int64_t base = image * p.op.max_output;
  const int limit = static_cast<int>(p.op.max_output);
  for (int begin = 0; begin < size && kept < limit; begin += kWindow) {
    load_window(p, s, image, begin, size);
    __syncthreads();
    const int end = min(kWindow, size - begin);
    for (int chunk = 0; chunk < end && kept < limit; chunk += kChunk) {
      compare_chunk(p, s, base, chunk, kept);
      __syncthreads();
      if (threadIdx.x < 32)
        keep_chunk(p, s, base, chunk, s.select.keys + begin + chunk, min(kChunk, end - chunk), kept);
      __syncthreads();
      kept = s.kept;
    }
  }
  __syncthreads();
  return kept;
}

__global__ void __launch_bounds__(kThreads, 1) detection_walk(const __grid_constant__ DetectParams p) {
  HTC_SHARED(DetectionShared, s);
  const int image = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int rows = static_cast<int>(p.op.moves.rows), limit = static_cast<int>(p.op.max_output);
  const int64_t first_row = static_cast<int64_t>(image) * rows, base = image * p.op.max_output;
  const Scores list{p.scores + first_row * p.stride, p.best + first_row, rows, static_cast<int>(p.op.classes),
                    p.stride};
  const int found = count_candidates(s, list);
  int kept = 0;
  uint64_t upper = found == 0 ? 0 : ~uint64_t{0};
  while (kept < limit && upper != 0) {
    const int size = sampled_batch(s.select, list, found, upper);
    kept = keep_batch(p, s, image, size, kept);
  }
  for (int i = kept + thread; i < limit; i += kThreads) {
    store_box(p.op.boxes + 4 * (base + i), {});
    p.op.labels[base + i] = -1;
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
  p.stride = static_cast<int>(ceil_div<int64_t>(op.classes, 4)) * 4;
  const int64_t rows = op.moves.images * op.moves.rows;
  Pieces pieces{memory};
  pieces.take(p.best, rows);
  pieces.take(p.scores, rows * p.stride);
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
  const int64_t blocks = ceil_div<int64_t>(op.moves.images * op.moves.rows, kScoreRows);
  launch("detection_scores", detection_scores, static_cast<unsigned>(blocks), kScoreThreads, 0, stream, p);
  launch("detection_walk", detection_walk, static_cast<unsigned>(op.moves.images), kThreads, 0, stream, p);
}

}  // namespace htc::cuda
