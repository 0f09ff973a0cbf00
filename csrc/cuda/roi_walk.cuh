// How a group of lanes walks over a row of bins of RoIAlign: column of pixels by column, in fp32.
#pragma once
#include "cuda/roi_tables.cuh"

namespace htc::cuda {

constexpr int kHelpers = 8;   // RoIs whose parts a block may do
constexpr int kInFlight = 4;  // pixels a lane asks for before it uses the first

struct ForwardParams {
  RoiParams roi;
  void* out;         // [K, out_h, out_w, C]
  int room;          // weights per table line
  int fewest, most;  // pieces that a row of bins is cut into
  int helpers;
  float long_walk;  // pixels; longer walks are cut, down to single bins
};

// A RoI that a block may have a part of, and how many pieces its rows of bins are cut into.
struct Candidate {
  RoiPlace roi;
  int per_row;
};

struct ForwardShared {
  const void* image[2];  // per slot (0 the RoI's level, 1 the semantic map): the RoI's image
  unsigned wanted;       // the candidates that the block has a part of
  Candidate candidates[kHelpers];
};

// A column of pixels on its way into a bin and, where they have it in common, into the bin behind it.
template <class T, int V, bool Common>
struct Column {
  const Vector<T, V>* top;
  int64_t step;  // between rows; of single elements
  float weight, behind;

  template <int N>
  __device__ __forceinline__ void add_rows(const PixelWeight* rows, float (&sum)[V], float (&next)[V]) const {
    Vector<T, V> value[N];
    float at_y[N];
#pragma unroll
    for (int u = 0; u < N; u++) {
      const PixelWeight row = rows[u];
      at_y[u] = row.weight;
      value[u] = load_elements<T, V>(reinterpret_cast<const T*>(top + offset_of<V>(row, step)));
    }
#pragma unroll
    for (int u = 0; u < N; u++) {
      float wide[V];
      load_floats<T, V>(value[u], wide);
      const float one = at_y[u] * weight, other = at_y[u] * behind;
#pragma unroll
      for (int c = 0; c < V; c++) {
        sum[c] = fmaf(one, wide[c], sum[c]);
        if (Common) next[c] = fmaf(other, wide[c], next[c]);
      }
    }
  }
  __device__ __forceinline__ void add(const PixelWeight* rows, int count, float (&sum)[V], float (&next)[V]) const {
#pragma unroll 1
    for (; count >= kInFlight; count -= kInFlight, rows += kInFlight) add_rows<kInFlight>(rows, sum, next);
    static_assert(kInFlight == 4);
    switch (count) {
      case 3: return add_rows<3>(rows, sum, next);
      case 2: return add_rows<2>(rows, sum, next);
      case 1: return add_rows<1>(rows, sum, next);
      default: return;
    }
  }
};

// A group's share of a RoI: some neighbouring bins of a row. What follows from other values is not kept: at 72
// registers a multiprocessor has room for 28 warps.
template <class T, int V>
struct Share {
  int slots, level;            // slots: the maps it is pooled from; none for a RoI that gives zeros
  unsigned mine;               // this lane's vector of channels; lanes behind the last one do it over again
  int bins;                    // that are left
  const int2 *rows, *columns;  // the table's lines, on the RoI's level, of this row of bins and of the first bin
  Vector<T, V>* out;

  __device__ __forceinline__ const Map& map(const RoiParams& r, int slot) const {
    return r.maps[slot == 0 ? level : r.semantic];
  }
  __device__ __forceinline__ const Vector<T, V>* start(const RoiParams& r, int slot,
                                                       const ForwardShared& shared) const {
    const unsigned vector = min(mine, static_cast<unsigned>(r.channels) / V - 1);
    // Read again for every column: two registers less.
    const auto* first = static_cast<const Vector<T, V>*>(shared.image[opaque(slot)]);
    return V == 1 ? first + vector * map(r, slot).stride_c : first + vector;
  }
  // Stores a bin and goes on to the next one.
  __device__ __forceinline__ void finish(const ForwardParams& p, const float (&sum)[V]) {
    if (mine < static_cast<unsigned>(p.roi.channels) / V) store_elements<T, V>(reinterpret_cast<T*>(out), sum);
    out += p.roi.channels / V;
    columns += p.room + 1;
    bins--;
  }
};

template <class T, int V>
struct Task {
  Share<T, V> share;  // no bins: there is nothing to do
  int k, ph, begin;
};

// With the columns of the tables. `from` has two bits per slot: how many columns of a bin the bin before it has read
// for it.
template <class T, int V>
__device__ __forceinline__ void walk(const ForwardParams& p, const ForwardShared& shared, Share<T, V> share) {
  int from = 0;
  float sum[V] = {};
#pragma unroll 1
  while (share.bins > 0) {
    float next[V] = {};
#pragma unroll 1
    for (int slot = 0; slot < share.slots; slot++) {
      const Map& map = share.map(p.roi, slot);
      const int table = slot * (p.roi.out_h + p.roi.out_w) * (p.room + 1);
      const int2 *rows = share.rows + table, *columns = share.columns + table, *behind = columns + p.room + 1;
      const int count = columns->x;
      int i = from >> 2 * slot & 3, alone = count;
      // The bin behind can be given its first columns, or none of them.
      if (share.bins > 1) alone -= behind->y;
      if (i > alone) alone = count;
      from = (from & ~(3 << 2 * slot)) | (count - alone) << 2 * slot;
#pragma unroll 1
      for (; i < alone; i++) {
        const PixelWeight at = pixels_of(columns)[i];
        const Column<T, V, false> column{opaque(share.start(p.roi, slot, shared) + offset_of<V>(at, map.stride_w)),
                                         map.stride_h, at.weight, 0.0f};
        column.add(pixels_of(rows), rows->x, sum, next);
      }
#pragma unroll 1
      for (; i < count; i++) {
        const PixelWeight at = pixels_of(columns)[i];
        const Column<T, V, true> column{opaque(share.start(p.roi, slot, shared) + offset_of<V>(at, map.stride_w)),
                                        map.stride_h, at.weight, pixels_of(behind)[i - alone].weight};
        column.add(pixels_of(rows), rows->x, sum, next);
      }
    }
    share.finish(p, sum);
#pragma unroll
    for (int c = 0; c < V; c++) sum[c] = next[c];
  }
}

// The same where a line is too long for its table: bin by bin, and every lane of the group works out one pixel's place
// and weight and hands it to the others.
template <class T, int V, class Kind>
__device__ __forceinline__ void walk_long(const ForwardParams& p, const ForwardShared& shared, int k, int ph, int pw,
                                          Share<T, V> share) {
  const int lanes = static_cast<int>(blockDim.x);
#pragma unroll 1
  for (; share.bins > 0; pw++) {
    float sum[V] = {};
#pragma unroll 1
    for (int slot = 0; slot < share.slots; slot++) {
      const int table = slot * (p.roi.out_h + p.roi.out_w) * (p.room + 1);
      const int2 *rows = share.rows + table, *columns = share.columns + table;
#pragma unroll 1
      for (int first = 0; first < abs(rows->x) * abs(columns->x); first += lanes) {
        const int wide = abs(columns->x), pixels = abs(rows->x) * wide;
        const int mine = first + opaque(static_cast<int>(threadIdx.x)), row = mine / wide;
        decltype(offset_of<V>(PixelWeight{}, 0)) at = 0;
        float weight = mine < pixels ? 1.0f : 0.0f;
#pragma unroll 1
        for (int axis = 0; axis < 2 && mine < pixels; axis++) {
          const bool vertical = axis == 0;
          const TableLine line = table_line(vertical ? rows : columns);
          const int index = slot == 0 ? share.level : p.roi.semantic;
          const Map& map = share.map(p.roi, slot);
          const PixelWeight one = pixel_at<Kind, V>(p.roi, opaque(k), index, vertical, vertical ? ph : pw, line,
                                                    vertical ? row : mine - row * wide);
          at += offset_of<V>(one, vertical ? map.stride_h : map.stride_w);
          weight *= one.weight;
        }
        const int count = min(lanes, pixels - first);
        const int first_lane = opaque(static_cast<int>(threadIdx.y)) * lanes % 32;
        const unsigned group = (lanes == 32 ? ~0u : (1u << lanes) - 1) << first_lane;
#pragma unroll 1
        for (int j = 0; j < count; j++) {
          const auto from = __shfl_sync(group, at, first_lane + j);
          const float w = __shfl_sync(group, weight, first_lane + j);
          // Nothing is read for a weight of zero: zero times an infinite pixel would be NaN.
          if (w == 0.0f) continue;
          const auto* start = share.start(p.roi, slot, shared);
          multiply_add<T, V>(w, load_elements<T, V>(reinterpret_cast<const T*>(start + static_cast<uint64_t>(from))),
                             sum);
        }
      }
    }
    share.finish(p, sum);
  }
}

}  // namespace htc::cuda
