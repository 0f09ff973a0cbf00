// Batched NMS of fixed shape, without waiting for the device. Classes go to groups. Three ways through it:
//   few wanted   nms_keys, nms_walk, nms_merge: a group is one block's, which takes its boxes best first, 64 at a time,
//                and stops when it has kept as many as are wanted at all
//   many wanted  nms_keys, nms_order, nms_chain, nms_rank (nms_order.cuh, nms_chain.cuh)
//   of many      radix_keys, radix_pass five times, nms_chain, nms_collect (nms_radix.cuh)
// In the first way 80 000 candidates of which 100 are wanted cost little more than reading them. Nothing is ever
// quadratic in the number of candidates in memory.
#include "cuda/nms_chain.cuh"
#include "cuda/nms_chunk.cuh"
#include "cuda/nms_order.cuh"
#include "cuda/nms_radix.cuh"

namespace htc::cuda {
namespace {

// Calls visit(key) for every candidate of a group, spread over the block's threads.
template <class Visit>
__device__ __forceinline__ void visit_group(const NmsParams& p, int image, int group, Visit visit) {
  const uint4* words = reinterpret_cast<const uint4*>(p.group_of + image * p.padded);
  for (int64_t w = threadIdx.x; w < p.padded / 16; w += kThreads) {
    const uint4 raw = words[w];
    const uint32_t four[4] = {raw.x, raw.y, raw.z, raw.w};
    for (int i = 0; i < 16; i++)
      if ((four[i / 4] >> i % 4 * 8 & 255u) == static_cast<uint32_t>(group))
        visit(p.keys[image * p.count + w * 16 + i]);
  }
}

__global__ void __launch_bounds__(kThreads, 2) nms_walk(const __grid_constant__ NmsParams p) {
  HTC_SHARED(WalkShared, s);
  const int image = static_cast<int>(blockIdx.x), group = static_cast<int>(blockIdx.y),
            thread = static_cast<int>(threadIdx.x);
  const int64_t first = image * p.count;
  const int64_t base = first + group_offset(p, image, group, s.offset);
  const auto limit = static_cast<int>(min(p.max_output, p.count));
  const int list = image * p.groups + group;
  int kept = 0;
  uint64_t upper = p.sizes[list] == 0 ? 0 : ~uint64_t{0};
  while (kept < limit && upper != 0) {
    const int size = next_batch(s.select, [&](auto visit) { visit_group(p, image, group, visit); }, upper);
    for (int begin = 0; begin < size && kept < limit; begin += kChunk) {
      if (thread < 2) s.gone[thread] = 0;
      if (thread < kChunk) {
        const uint64_t key = begin + thread < size ? s.select.keys[begin + thread] : 0;
        const int64_t at = first + (key != 0 ? index_of(key) : 0);
        s.boxes[thread] = load_box(p.boxes + 4 * at);
        s.classes[thread] = p.classes == nullptr ? 0 : p.classes[at];
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
  if (thread == 0) p.kept[list] = kept;
}

}  // namespace

int64_t batched_nms_workspace(const BatchedNms& op) {
  int64_t bytes = 0;
  nms_params(op, nullptr, bytes, true);
  return bytes;
}

void batched_nms(const BatchedNms& op, void* workspace, Stream stream) {
  if (op.images == 0) return;
  int64_t bytes = 0;
  const NmsParams p = nms_params(op, static_cast<char*>(workspace), bytes, true);
  // Images go along x: along y a grid ends at 65535.
  const auto images = static_cast<unsigned>(op.images);
  const auto tiles = static_cast<unsigned>(op.images * p.tiles), blocks = static_cast<unsigned>(op.images * p.blocks);
  if (p.blocks > 0) {
    fill_zero(p.sizes, p.cleared, stream);
    launch("radix_keys", radix_keys, blocks, kThreads, 0, stream, p);
    for (int pass = 0; pass < kScorePasses; pass++)
      launch("radix_pass", radix_pass<false>, blocks, kThreads, 0, stream, p, pass);
    launch("radix_pass", radix_pass<true>, blocks, kThreads, 0, stream, p, kScorePasses);
    launch("nms_chain", nms_chain, tiles, kTileThreads, 0, stream, p);
    launch("nms_collect", nms_collect, blocks, kThreads, 0, stream, p);
    return;
  }
  launch_keys(p, stream);
  if (p.tiles > 0) {
    // What has to be asked for is always the same: threads that ask for different sizes would undo each other's.
    const size_t scores = sizeof(uint32_t) * static_cast<size_t>(p.padded);
    const size_t shared = scores > kSharedUnasked ? sizeof(uint32_t) * kCounted : scores;
    launch("nms_order", nms_order, tiles, kThreads, shared, stream, p);
    launch("nms_chain", nms_chain, tiles, kTileThreads, 0, stream, p);
    launch("nms_rank", nms_rank, tiles, kThreads, 0, stream, p);
    return;
  }
  launch("nms_walk", nms_walk, dim3(images, p.groups), kThreads, 0, stream, p);
  launch("nms_merge", nms_merge, images, kThreads, 0, stream, p);
}

}  // namespace htc::cuda
