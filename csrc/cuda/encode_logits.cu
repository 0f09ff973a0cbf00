// encode_logits: the runs of ones of maps resized to the image, without the resized maps.
#include "cuda/map_lines.cuh"
#include "masks.h"

namespace htc::cuda {
namespace {

struct LogitMasks {
  MapParams map;

  __device__ __forceinline__ MapPlace place(int64_t) const {
    return {{0, map.height}, {0, map.height == 0 ? 0 : map.width}, {0, map.down.cells}, {0, map.across.cells}};
  }
  __device__ __forceinline__ void prepare(const MapPlace& place, uint32_t* starts) const {
    find_starts(map, place, starts);
  }
  template <class Emit>
  __device__ __forceinline__ void walk(const MapPlace& place, int64_t k, const uint32_t* starts, int64_t column,
                                       Emit emit) const {
    walk_map(map, place, map.maps + k * map.map_h * map.map_w, starts, column, emit);
  }
};

}  // namespace

int64_t run_parts(const EncodeLogits& op) { return column_parts(op.width); }

void find_runs(const EncodeLogits& op, uint64_t* packet, int64_t room, Stream stream) {
  const MapParams map = map_params(op, op.logits);
  find_runs_of("find_runs_of_maps", LogitMasks{map}, op.count, op.height, op.width, packet, room, map_tables(map),
               stream);
}

}  // namespace htc::cuda
