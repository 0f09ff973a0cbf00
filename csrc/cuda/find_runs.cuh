// Masks become runs of ones, column by column, and nothing else: no mask of the image's size exists. A block takes the
// columns of a part of a mask, a thread each: it walks them to count their runs, asks for so much room, and writes
// what it kept; columns of more runs than are kept are walked again. Parts come to lie in any order; the host reads
// them in theirs.
#pragma once
#include "cuda/block_scan.cuh"
#include "geometry.h"

namespace htc::cuda {

constexpr int kRunColumns = 128;  // columns of a mask per block
constexpr int kKeptRuns = 4;      // of a column, until there is room for them

// The one piece of memory that goes to the host (masks.h), on the device.
struct Packet {
  unsigned long long* total;
  uint2* places;  // [K, parts]: the first run, how many
  uint2* runs;    // [room]
  int64_t parts, room;
};

inline Packet open_packet(uint64_t* memory, int64_t count, int64_t parts, int64_t room, Stream stream) {
  fill_zero(memory, sizeof(uint64_t) * static_cast<size_t>(1 + count * parts), stream);
  uint2* places = reinterpret_cast<uint2*>(memory + 1);
  return {reinterpret_cast<unsigned long long*>(memory), places, places + count * parts, parts, room};
}

// One thread asks for room for `runs` runs of a part, and is told where they begin.
__device__ __forceinline__ unsigned long long claim(const Packet& packet, int64_t mask, int64_t part, uint32_t runs) {
  const unsigned long long first = atomicAdd(packet.total, static_cast<unsigned long long>(runs));
  packet.places[mask * packet.parts + part] = make_uint2(static_cast<unsigned>(first), runs);
  return first;
}

// Told what pixels are, row by row, it tells the runs of ones.
template <class Emit>
struct Turns {
  Emit emit;
  bool inside = false;
  uint32_t begin = 0;

  __device__ __forceinline__ void operator()(bool now, uint32_t row) {
    if (now == inside) return;
    if (inside) emit(begin, row);
    begin = row;
    inside = now;
  }
};

template <class Columns>
struct FindParams {
  Columns columns;
  int64_t height;
  Packet packet;
};

struct FindShared {
  ScanShared<int32_t> scan;
  unsigned long long first;
  uint2 kept[kKeptRuns][kRunColumns];
};

// Columns knows: place(k), whose `columns` are those that may have ones; prepare(place, tables), by all threads; and
// walk(place, k, tables, column, emit), which calls emit(begin, end) for every run of a column, in rows of the image.
template <class Columns>
__global__ void __launch_bounds__(kRunColumns) find_runs_of_part(const __grid_constant__ FindParams<Columns> p) {
  HTC_SHARED(FindShared, s);
  const int64_t k = blockIdx.x;
  const auto place = p.columns.place(k);
  const int64_t left = place.columns.first + static_cast<int64_t>(blockIdx.y) * kRunColumns;
  const int64_t column = left + threadIdx.x;
  // The grid is made for masks as wide as the image: many blocks have no column.
  if (left >= place.columns.end) return;
  const bool inside = column < place.columns.end;
  uint32_t* tables = dynamic_shared<uint32_t>();
  p.columns.prepare(place, tables);
  __syncthreads();
  int32_t runs = 0;
  const auto keep = [&](uint32_t begin, uint32_t end) {
    if (runs < kKeptRuns) s.kept[runs][threadIdx.x] = make_uint2(begin, end);
    runs++;
  };
  if (inside) p.columns.walk(place, k, tables, column, keep);
  const Prefix<int32_t> prefix = block_prefix(s.scan, runs);
  if (threadIdx.x == 0) s.first = claim(p.packet, k, blockIdx.y, static_cast<uint32_t>(prefix.total));
  __syncthreads();
  int64_t at = static_cast<int64_t>(s.first) + prefix.before;
  if (runs == 0 || at >= p.packet.room) return;
  const auto origin = static_cast<uint32_t>(column * p.height);
  const auto write = [&](uint32_t begin, uint32_t end) {
    if (at < p.packet.room) p.packet.runs[at] = make_uint2(origin + begin, origin + end);
    at++;
  };
  if (runs > kKeptRuns) return p.columns.walk(place, k, tables, column, write);
  for (int i = 0; i < runs; i++) write(s.kept[i][threadIdx.x].x, s.kept[i][threadIdx.x].y);
}

inline int64_t column_parts(int64_t width) { return ceil_div<int64_t>(width, kRunColumns); }

// shared: bytes of the tables
template <class Columns>
void find_runs_of(const char* name, const Columns& columns, int64_t count, int64_t height, int64_t width,
                  uint64_t* memory, int64_t room, size_t shared, Stream stream) {
  const int64_t parts = column_parts(width);
  const FindParams<Columns> p{columns, height, open_packet(memory, count, parts, room, stream)};
  const dim3 grid(static_cast<unsigned>(count), static_cast<unsigned>(parts));
  launch(name, find_runs_of_part<Columns>, grid, kRunColumns, shared, stream, p);
}

}  // namespace htc::cuda
