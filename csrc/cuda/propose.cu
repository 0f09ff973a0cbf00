// Proposals, of fixed shape, without waiting for the device.
//   propose_count    how many logits have which leading bits, per (image, level): all multiprocessors
//   propose_collect  keys of the logits that reach the digit in which the last wanted one is: all multiprocessors
//   propose_sort     per (image, level): the best, in order, with their boxes: places are counted by several blocks
// and then, of no more than 2048 candidates per level, the kernels of propose_nms.cuh, of more
//   batched_nms      within the levels, the best of all
//   propose_gather   boxes and probabilities of those
// A map is read twice, and of its 200 000 logits some thousand go on: a block alone would need 400 rounds per reading.
#include <algorithm>

#include "cuda/block_scan.cuh"
#include "cuda/propose_nms.cuh"

namespace htc::cuda {
namespace {

constexpr int kBlockLogits = 4 * kThreads;
constexpr int kTopShift = 64 - kDigitBits;
constexpr int kGatherThreads = 256;

struct Place {
  int image, level, begin, end;  // logits begin..end are the block's
};
__device__ __forceinline__ Place place_of(const ProposeParams& p) {
  const int image = static_cast<int>(blockIdx.x) / p.blocks, block = static_cast<int>(blockIdx.x) - image * p.blocks;
  int level = 0;
  while (level + 1 < p.op.levels && block >= p.share[level + 1].first_block) level++;
  const int begin = (block - p.share[level].first_block) * kBlockLogits;
  return {image, level, begin, min(begin + kBlockLogits, p.share[level].size)};
}

// Calls visit(key) for every finite logit of the block's; a thread's are all asked for before the first is used.
template <class T, class Visit>
__device__ __forceinline__ void visit_logits(const ProposeParams& p, const Place& at, Visit visit) {
  constexpr int kEach = kBlockLogits / kThreads;
  const ProposalLevel& level = p.op.level[at.level];
  const FeatureMap& map = level.objectness;
  const T* logits = static_cast<const T*>(map.data) + at.image * map.stride_n;
  const int first = at.begin + static_cast<int>(threadIdx.x);
  float own[kEach];
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    const int index = first + i * kThreads;
    const Cell c = cell_of(level, index);
    const int64_t place = c.anchor * map.stride_c + c.y * map.stride_h + c.x * map.stride_w;
    own[i] = index < at.end ? to_float(logits[place]) : NAN;
  }
#pragma unroll
  for (int i = 0; i < kEach; i++)
    if (fabsf(own[i]) < INFINITY) visit(sort_key(own[i], static_cast<uint32_t>(first + i * kThreads)));
}

struct CountShared {
  int histogram[kDigits];
};

template <class T>
__global__ void __launch_bounds__(kThreads) propose_count(const __grid_constant__ ProposeParams p) {
  HTC_SHARED(CountShared, s);
  const Place at = place_of(p);
  for (int i = static_cast<int>(threadIdx.x); i < kDigits; i += kThreads) s.histogram[i] = 0;
  __syncthreads();
  visit_logits<T>(p, at, [&](uint64_t key) { atomicAdd(&s.histogram[key >> kTopShift], 1); });
  __syncthreads();
  int32_t* all = p.histograms + static_cast<int64_t>(at.image * p.op.levels + at.level) * kDigits;
  for (int i = static_cast<int>(threadIdx.x); i < kDigits; i += kThreads)
    if (s.histogram[i] > 0) atomicAdd(&all[i], s.histogram[i]);
}

struct CollectShared {
  ScanShared<int> scan;
  uint64_t bound, keys[kBlockLogits];
  int filled, first;
};

// The lowest key of the digit in which the last wanted one is; 0 where there are not so many.
__device__ __forceinline__ uint64_t bound_of(CollectShared& s, const int32_t* histogram, int wanted) {
  const int thread = static_cast<int>(threadIdx.x), best = kDigits - 1 - 4 * thread;  // thread 0 has the best digits
  if (thread == 0) s.bound = 0;
  const int4 counts = *reinterpret_cast<const int4*>(histogram + best - 3);
  const int own[4] = {counts.w, counts.z, counts.y, counts.x};
  const Prefix<int> sum = block_prefix(s.scan, own[0] + own[1] + own[2] + own[3]);
  int reached = sum.before;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    if (reached < wanted && reached + own[j] >= wanted) s.bound = static_cast<uint64_t>(best - j) << kTopShift;
    reached += own[j];
  }
  __syncthreads();
  return s.bound;
}

template <class T>
__global__ void __launch_bounds__(kThreads) propose_collect(const __grid_constant__ ProposeParams p) {
  HTC_SHARED(CollectShared, s);
  const Place at = place_of(p);
  const Share& share = p.share[at.level];
  const int list = at.image * p.op.levels + at.level;
  if (threadIdx.x == 0) s.filled = 0;
  const uint64_t bound = bound_of(s, p.histograms + static_cast<int64_t>(list) * kDigits, share.wanted);
  visit_logits<T>(p, at, [&](uint64_t key) {
    if (key >= bound) s.keys[atomicAdd(&s.filled, 1)] = key;
  });
  __syncthreads();
  if (threadIdx.x == 0) s.first = atomicAdd(&p.found[list], s.filled);
  __syncthreads();
  uint64_t* keys = p.keys + at.image * p.keys_per_image + share.first_key + s.first;
  for (int i = static_cast<int>(threadIdx.x); i < s.filled; i += kThreads) keys[i] = s.keys[i];
}

__global__ void __launch_bounds__(kGatherThreads) propose_gather(const __grid_constant__ ProposeParams p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kGatherThreads + threadIdx.x;
  if (i >= p.op.images * p.op.limit) return;
  const int64_t index = p.indices[i];
  write_proposal(p, i, index >= 0, i / p.op.limit * p.candidates + index);
}

BatchedNms nms_of(const ProposeParams& p) {
  BatchedNms nms{};
  nms.images = p.op.images;
  nms.count = p.candidates;
  nms.boxes = reinterpret_cast<const float*>(p.boxes);
  nms.scores = p.logits;
  nms.classes = p.levels;
  nms.iou_threshold = p.op.iou_threshold;
  nms.has_score_threshold = true;
  nms.score_threshold = -INFINITY;
  nms.max_output = p.op.limit;
  nms.indices = p.indices;
  nms.counts = p.counts;
  return nms;
}

// bytes: of the workspace, without what NMS needs.
ProposeParams propose_params(const Propose& op, char* memory, int64_t& bytes) {
  ProposeParams p{};
  p.op = op;
  int most = 0;  // tiles of a level
  for (int l = 0; l < op.levels; l++) {
    const FeatureMap& map = op.level[l].objectness;
    const int64_t size = op.level[l].anchors * map.height * map.width;
    const int wanted = static_cast<int>(std::min(op.per_level, size));
    const int tiles = ceil_div(wanted, kChunk);
    p.share[l] = {p.keys_per_image, static_cast<int>(size), wanted, p.candidates, p.blocks, p.tiles, p.pairs};
    p.keys_per_image += size;
    p.candidates += wanted;
    p.tiles += tiles;
    p.pairs += tiles <= kMostTiles ? tiles * (tiles + 1) / 2 : 0;
    most = std::max(most, tiles);
    p.blocks += static_cast<int>(ceil_div<int64_t>(size, kBlockLogits));
  }
  if (most > kMostTiles || op.limit == 0) p.tiles = p.pairs = 0;
  p.nms = nms_params(nms_of(p), nullptr, bytes, false);
  bytes = 0;
  auto take = [&]<class P>(P*& pointer, int64_t count) {
    pointer = reinterpret_cast<P*>(memory + bytes);
    bytes += (count * static_cast<int64_t>(sizeof(P)) + 15) / 16 * 16;
  };
  take(p.histograms, op.images * op.levels * kDigits);
  take(p.found, op.images * op.levels);  // cleared together with the histograms
  take(p.keys, op.images * p.keys_per_image);
  take(p.boxes, op.images * p.candidates);
  take(p.logits, op.images * p.candidates);
  take(p.levels, p.tiles > 0 ? 0 : op.images * p.candidates);
  take(p.indices, p.tiles > 0 ? 0 : op.images * op.limit);
  take(p.counts, p.tiles > 0 ? 0 : op.images);
  take(p.overlaps, op.images * p.pairs * kChunk);
  take(p.stays, op.images * p.tiles);
  take(p.kept_before, op.images * p.tiles);
  return p;
}

// Within the levels, the best of all.
void choose(const ProposeParams& p, void* nms_workspace, Stream stream) {
  const auto images = static_cast<unsigned>(p.op.images), levels = static_cast<unsigned>(p.op.levels);
  if (p.tiles == 0) {
    batched_nms(nms_of(p), nms_workspace, stream);
    const auto gather = static_cast<unsigned>(ceil_div<int64_t>(p.op.images * p.op.limit, kGatherThreads));
    return launch("propose_gather", propose_gather, gather, kGatherThreads, 0, stream, p);
  }
  int most = 0;  // candidates of a level
  for (int l = 0; l < p.op.levels; l++) most = std::max(most, p.share[l].wanted);
  const auto threads = static_cast<unsigned>(32 * ceil_div(most, kChunk));
  const auto pairs = images * static_cast<unsigned>(ceil_div(p.pairs, kPairs));
  // What has to be asked for is always the same: threads that ask for different sizes would undo each other's.
  const size_t logits = sizeof(float) * static_cast<size_t>(p.candidates);
  const size_t shared = logits > kSharedUnasked ? sizeof(float) * kMostTiles * kChunk * kProposalLevels : logits;
  launch("propose_overlaps", propose_overlaps, pairs, kPairThreads, 0, stream, p);
  launch("propose_settle", propose_settle, dim3(images, levels), threads, 0, stream, p);
  launch("propose_rank", propose_rank, images * static_cast<unsigned>(p.tiles), kRankThreads, shared, stream, p);
}

template <class T>
void run(const ProposeParams& p, void* nms_workspace, Stream stream) {
  const int64_t lists = p.op.images * p.op.levels;
  const char* begin = reinterpret_cast<const char*>(p.histograms);
  fill_zero(p.histograms, static_cast<size_t>(reinterpret_cast<const char*>(p.found + lists) - begin), stream);
  const auto blocks = static_cast<unsigned>(p.op.images * p.blocks), images = static_cast<unsigned>(p.op.images);
  launch("propose_count", propose_count<T>, blocks, kThreads, 0, stream, p);
  launch("propose_collect", propose_collect<T>, blocks, kThreads, 0, stream, p);
  // Of a list of 4096 a block each 64 keys; where there are many lists, several times.
  const auto parts = static_cast<unsigned>(std::clamp<int64_t>(320 / std::max<int64_t>(lists, 1), 16, 64));
  const dim3 by_list(images, static_cast<unsigned>(p.op.levels), parts);
  launch("propose_sort", propose_sort<T>, by_list, kThreads, 0, stream, p);
  choose(p, nms_workspace, stream);
}

}  // namespace

int64_t propose_workspace(const Propose& op) {
  int64_t bytes = 0;
  const ProposeParams p = propose_params(op, nullptr, bytes);
  return p.tiles > 0 ? bytes : bytes + batched_nms_workspace(nms_of(p));
}

void propose(const Propose& op, void* workspace, Stream stream) {
  if (op.images == 0) return;
  int64_t bytes = 0;
  const ProposeParams p = propose_params(op, static_cast<char*>(workspace), bytes);
  void* rest = static_cast<char*>(workspace) + bytes;
  switch (op.dtype) {
    case DType::f16: return run<f16>(p, rest, stream);
    case DType::bf16: return run<bf16>(p, rest, stream);
    default: return run<float>(p, rest, stream);
  }
}

}  // namespace htc::cuda
