// Batched NMS of fixed shape, without waiting for the device. Classes go to groups, and a group of an image is one
// block's: it takes its boxes best first, 64 at a time, and stops when it has kept as many as are wanted at all.
//   nms_keys   which boxes are candidates, as keys that sort by score and then by index; sizes of the groups
//   nms_sort, nms_words   where many of some thousand are wanted: overlaps beforehand (nms_matrix.cuh)
//   nms_walk   per (image, group): the kept ones, best first
//   nms_merge  per image: the best of all groups
// Selection and sorting go through batches in shared memory, so that 80 000 candidates of which 100 are wanted cost
// little more than reading them, and nothing is ever quadratic in the number of candidates in memory.
#include "cuda/nms_chunk.cuh"

namespace htc::cuda {
namespace {

// The same of a chunk of the first batch, read instead of computed: bits of better boxes are of use where those stayed.
__device__ __forceinline__ void read_chunk(const NmsParams& p, WalkShared& s, const uint64_t* words, int chunk,
                                           int size) {
  const int box = static_cast<int>(threadIdx.x) % kChunk;
  uint64_t hits = 0;
  for (int better = static_cast<int>(threadIdx.x) / kChunk; better <= chunk && box < size;
       better += kThreads / kChunk) {
    const uint64_t word = words[better * kChunk + box];
    if (better < chunk) hits |= word & s.stays[better];
    else s.earlier[box] = word;
  }
  const unsigned bits = __ballot_sync(~0u, hits != 0);
  if (threadIdx.x % 32 == 0 && bits != 0) atomicOr(&s.gone[box / 32], bits);
}

// The batch that nms_sort left, as next_batch would give it.
__device__ __forceinline__ int load_batch(const NmsParams& p, SelectShared& s, int list, uint64_t& upper) {
  const int size = p.kept[list];
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) s.keys[i] = p.kept_keys[p.bases[list] + i];
  upper = p.uppers[list];
  __syncthreads();
  return size;
}

// Matrix: the first batch is there, sorted and compared.
template <bool Matrix>
__global__ void __launch_bounds__(kThreads, Matrix ? 1 : 2) nms_walk(const __grid_constant__ NmsParams p) {
  HTC_SHARED(WalkShared, s);
  const int image = static_cast<int>(blockIdx.x), group = static_cast<int>(blockIdx.y),
            thread = static_cast<int>(threadIdx.x);
  const int64_t first = image * p.count;
  const int64_t base = first + group_offset(p, image, group, s.offset);
  const auto limit = static_cast<int>(min(p.max_output, p.count));
  const int list = image * p.groups + group;
  int kept = 0;
  uint64_t upper = p.sizes[list] == 0 ? 0 : ~uint64_t{0};
  for (bool known = Matrix; kept < limit && upper != 0; known = false) {
    const int size = known ? load_batch(p, s.select, list, upper)
                           : next_batch(s.select, [&](auto visit) { visit_group(p, image, group, visit); }, upper);
    const bool compared = !known || upper != 0;  // whether what stays is compared with more
    for (int begin = 0; begin < size && kept < limit; begin += kChunk) {
      if (thread < 2) s.gone[thread] = 0;
      if (thread < kChunk && compared) {
        const uint64_t key = begin + thread < size ? s.select.keys[begin + thread] : 0;
        const int64_t at = first + (key != 0 ? index_of(key) : 0);
        s.boxes[thread] = load_box(p.boxes + 4 * at);
        s.classes[thread] = p.classes == nullptr ? 0 : p.classes[at];
      }
      __syncthreads();
      if (known) {
        const int chunk = begin / kChunk;
        read_chunk(p, s, tile_words(p, image, p.first_tiles[list] + chunk), chunk, size - begin);
      } else {
        compare_chunk(p, s, base, kept);
      }
      __syncthreads();
      if (thread < 32) {
        const uint64_t stays = settle_chunk(s, min(kChunk, size - begin));
        for (int i = thread; i < kChunk; i += 32) {
          const int place = kept + __popcll(stays & ((uint64_t{1} << i) - 1));
          if (!(stays >> i & 1) || place >= limit) continue;
          if (compared) p.kept_boxes[base + place] = s.boxes[i];
          if (compared) p.kept_classes[base + place] = s.classes[i];
          p.kept_keys[base + place] = s.select.keys[begin + i];
        }
        if (thread == 0) {
          s.kept = min(kept + __popcll(stays), limit);
          if (known) s.stays[begin / kChunk] = stays;
        }
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
  const auto images = static_cast<unsigned>(op.images);
  launch_keys(p, stream);
  if (p.tiles > 0) {
    launch("nms_sort", nms_sort, dim3(images, p.groups), kThreads, 0, stream, p);
    const dim3 grid(images, static_cast<unsigned>(p.tiles), kWordTiles / kWordBetter);
    launch("nms_words", nms_words, grid, kWordThreads, 0, stream, p);
  }
  launch("nms_walk", p.tiles > 0 ? nms_walk<true> : nms_walk<false>, dim3(images, p.groups), kThreads, 0, stream, p);
  launch("nms_merge", nms_merge, images, kThreads, 0, stream, p);
}

}  // namespace htc::cuda
