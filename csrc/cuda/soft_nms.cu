// Soft-NMS by class, of many images at once and without waiting for the device. Picks follow one another by nature, so
// a pick has to be short: a team of threads keeps a group's members in registers, and all of them decay and search
// at once. The team is a warp where a group has 256 members at most, and needs no barrier; else it is a block.
//   nms_keys   candidates and groups, as for hard NMS
//   soft_walk  per group: pick the best, decay those of its class, drop what falls below min_score, again
//   nms_merge  per image: the best of all groups, with the scores they were picked at
#include "cuda/nms_groups.cuh"

namespace htc::cuda {
namespace {

constexpr int kTeams = 8;                            // warps of a block that have a group each
constexpr int kWarpMembers = 8, kBlockMembers = 10;  // of a thread, in registers
constexpr int kSmallGroup = 32 * kWarpMembers;       // candidates
static_assert(kTeams <= kWarps);

struct SoftParams {
  NmsParams nms;
  uint64_t* members;  // keys of the groups that are not small
  int64_t small_blocks;
  bool gaussian;
  float iou_threshold, sigma, min_score;
};

struct Pick {
  uint64_t key;  // 0: there is none
  int64_t cls;
  float4 box;
};

template <int Warps>
struct TeamShared {
  Pick picks[2][Warps];  // each warp's best, in turns: who reads the last ones is not overtaken
  int size;
};

struct SoftShared {
  TeamShared<kWarps> block;
  TeamShared<1> teams[kTeams];
  uint64_t members[kTeams][kSmallGroup];
};

template <int Threads>
__device__ __forceinline__ void team_barrier() {
  if constexpr (Threads == 32) __syncwarp();
  else __syncthreads();
}

template <int Threads>
__device__ __forceinline__ bool any_of_team(bool mine) {
  if constexpr (Threads == 32) return __any_sync(~0u, mine) != 0;
  else return __syncthreads_or(mine) != 0;
}

__device__ __forceinline__ uint64_t best_of_warp(uint64_t key) {
  const auto mine = static_cast<uint32_t>(key >> 32), high = __reduce_max_sync(~0u, mine);
  const uint32_t low = __reduce_max_sync(~0u, mine == high ? static_cast<uint32_t>(key) : 0u);
  return static_cast<uint64_t>(high) << 32 | low;
}

// What is left of a member's key when `pick` has been taken.
__device__ __forceinline__ uint64_t decayed(const SoftParams& q, int64_t first, bool mixed, uint64_t key, const Box& b,
                                            const Pick& pick) {
  if (key == pick.key) return 0;
  const Box a{pick.box.x, pick.box.y, pick.box.z, pick.box.w};
  const float width = fmaxf(fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1), 0.0f);
  const float height = fmaxf(fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1), 0.0f);
  const float shared = width * height;
  if (key == 0 || !(shared > 0.0f)) return key;
  if (mixed && q.nms.classes[first + index_of(key)] != pick.cls) return key;
  const float iou = shared / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared);
  float score = score_of(key);
  if (q.gaussian) score *= exponential(-(iou * iou) / q.sigma);
  else if (iou >= q.iou_threshold) score *= 1.0f - iou;
  return score >= q.min_score ? sort_key(score, static_cast<uint32_t>(index_of(key))) : 0;
}

// Brings the group's candidates together; in which order does not matter.
template <int Threads>
__device__ __forceinline__ void collect(const NmsParams& p, int image, int group, uint64_t* members, int& size) {
  const int thread = static_cast<int>(threadIdx.x) % Threads;
  if (thread == 0) size = 0;
  team_barrier<Threads>();
  const uint4* words = reinterpret_cast<const uint4*>(p.group_of + image * p.padded);
  const uint32_t wanted = static_cast<uint32_t>(group) * 0x01010101u;
  for (int64_t w = thread; w < p.padded / 16; w += Threads) {
    const uint4 raw = words[w];
    const uint32_t four[4] = {raw.x ^ wanted, raw.y ^ wanted, raw.z ^ wanted, raw.w ^ wanted};
    for (int i = 0; i < 16; i++) {
      if ((four[i / 4] >> i % 4 * 8 & 255u) != 0) continue;
      const uint64_t key = p.keys[image * p.count + w * 16 + i];
      if (score_of(key) < INFINITY) members[atomicAdd(&size, 1)] = key;
    }
  }
  team_barrier<Threads>();
}

// Where the group's kept ones begin: behind the candidates of the groups before it. Every warp for itself.
__device__ __forceinline__ int64_t group_start(const NmsParams& p, int image, int group) {
  int before = 0;
  for (int g = static_cast<int>(threadIdx.x) % 32; g < group; g += 32) before += p.sizes[image * p.groups + g];
  return image * p.count + __reduce_add_sync(~0u, before);
}

// One group by a team of threads, `Members` of its candidates in each one's registers, and what is more in memory.
template <int Threads, int Members>
__device__ __forceinline__ void walk_group(const SoftParams& q, TeamShared<Threads / 32>& s, int list,
                                           uint64_t* members) {
  const NmsParams& p = q.nms;
  const int thread = static_cast<int>(threadIdx.x) % Threads, lane = thread % 32, warp = thread / 32;
  const int image = list / p.groups, group = list % p.groups;
  const int64_t first = image * p.count, base = group_start(p, image, group);
  if (p.sizes[list] == 0) {
    if (thread == 0) p.kept[list] = 0;
    return;
  }
  if constexpr (Threads > 32) members = q.members + base;
  collect<Threads>(p, image, group, members, s.size);
  const int size = s.size;
  uint64_t keys[Members];
  Box boxes[Members];
  // Mostly a group is one class; where it is several, members that overlap look theirs up.
  const int64_t some = size > 0 ? p.classes[first + index_of(members[0])] : 0;
  bool other = false;
#pragma unroll
  for (int j = 0; j < Members; j++) {
    const int at = thread + j * Threads;
    keys[j] = at < size ? members[at] : 0;
    const int64_t box = first + (keys[j] != 0 ? index_of(keys[j]) : 0);
    boxes[j] = load_box(p.boxes + 4 * box);
    other = other || (keys[j] != 0 && p.classes[box] != some);
  }
  const bool mixed = size > Members * Threads || any_of_team<Threads>(other);
  const auto limit = static_cast<int>(min(p.max_output, p.count));
  int kept = 0;
  for (Pick pick{0, 0, make_float4(0.0f, 0.0f, 0.0f, 0.0f)}; kept < limit; kept++) {
    uint64_t best = 0;
#pragma unroll
    for (int j = 0; j < Members; j++) {
      if (j * Threads >= size) break;
      if (kept > 0) keys[j] = decayed(q, first, mixed, keys[j], boxes[j], pick);
      best = max(best, keys[j]);
    }
    for (int at = thread + Members * Threads; at < size; at += Threads) {
      uint64_t key = members[at];
      if (key != 0 && kept > 0) {
        key = decayed(q, first, mixed, key, load_box(p.boxes + 4 * (first + index_of(key))), pick);
        members[at] = key;
      }
      best = max(best, key);
    }
    const uint64_t of_warp = best_of_warp(best);
    Pick* row = s.picks[kept % 2];
    if (of_warp == 0 ? lane == 0 : best == of_warp) {
      const int64_t at = first + (best != 0 ? index_of(best) : 0);
      row[warp] = {best, p.classes[at], *reinterpret_cast<const float4*>(p.boxes + 4 * at)};
    }
    team_barrier<Threads>();
    int winner = 0;
    if constexpr (Threads > 32) {
      const uint64_t key = lane < Threads / 32 ? row[lane].key : 0;
      winner = __ffs(static_cast<int>(__ballot_sync(~0u, key == best_of_warp(key)))) - 1;
    }
    pick = row[winner];
    if (pick.key == 0) break;
    if (thread == 0) p.kept_keys[base + kept] = pick.key;
  }
  if (thread == 0) p.kept[list] = kept;
}

__global__ void __launch_bounds__(kThreads, 1) soft_walk(const __grid_constant__ SoftParams q) {
  HTC_SHARED(SoftShared, s);
  const NmsParams& p = q.nms;
  const int64_t lists = static_cast<int64_t>(p.images) * p.groups, block = blockIdx.x - q.small_blocks;
  if (block >= 0) {
    const auto list = static_cast<int>(block);
    if (p.sizes[list] > kSmallGroup) walk_group<kThreads, kBlockMembers>(q, s.block, list, nullptr);
    return;
  }
  const int team = static_cast<int>(threadIdx.x) / 32;
  const int64_t list = static_cast<int64_t>(blockIdx.x) * kTeams + team;
  if (team >= kTeams || list >= lists || p.sizes[list] > kSmallGroup) return;
  walk_group<32, kWarpMembers>(q, s.teams[team], static_cast<int>(list), s.members[team]);
}

SoftParams soft_params(const SoftNms& op, char* memory, int64_t& bytes) {
  BatchedNms hard{};
  hard.images = op.images;
  hard.count = op.count;
  hard.boxes = op.boxes;
  hard.scores = op.scores;
  hard.classes = op.classes;
  hard.has_score_threshold = true;
  hard.score_threshold = std::nextafter(op.min_score, -INFINITY);  // candidates score min_score or more
  hard.max_output = op.max_output;
  hard.indices = op.indices;
  hard.counts = op.counts;
  SoftParams q{};
  q.nms = nms_params(hard, memory, bytes, false);
  q.nms.decayed = op.decayed;
  q.members = reinterpret_cast<uint64_t*>(memory + bytes);
  bytes += op.images * op.count * static_cast<int64_t>(sizeof(uint64_t));
  q.small_blocks = ceil_div<int64_t>(op.images * q.nms.groups, kTeams);
  q.gaussian = op.gaussian;
  q.iou_threshold = op.iou_threshold;
  q.sigma = op.sigma;
  q.min_score = op.min_score;
  return q;
}

}  // namespace

int64_t soft_nms_workspace(const SoftNms& op) {
  int64_t bytes = 0;
  soft_params(op, nullptr, bytes);
  return bytes;
}

void soft_nms(const SoftNms& op, void* workspace, Stream stream) {
  if (op.images == 0) return;
  int64_t bytes = 0;
  const SoftParams q = soft_params(op, static_cast<char*>(workspace), bytes);
  launch_keys(q.nms, stream);
  const int64_t large = op.count > kSmallGroup ? op.images * q.nms.groups : 0;
  launch("soft_walk", soft_walk, static_cast<unsigned>(q.small_blocks + large), kThreads, 0, stream, q);
  launch("nms_merge", nms_merge, static_cast<unsigned>(op.images), kThreads, 0, stream, q.nms);
}

}  // namespace htc::cuda
