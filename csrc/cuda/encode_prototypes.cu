// encode_prototypes: one kernel makes of every mask's map the cells that its box needs, prototype by prototype; then
// the maps, which the cache holds, are walked as encode_logits walks them.
#include "cuda/map_lines.cuh"
#include "masks.h"

namespace htc::cuda {
namespace {

constexpr int kThreads = 256;  // cells of a map per block

struct PrototypeMasks {
  MapParams map;
  const float* boxes;  // [K, 4] in pixels of the image
  bool cut_after;
  float scale_x, scale_y, shift_x, shift_y;  // pixels of the image in cells of the map, for boxes

  // Whole numbers x with low <= x < high.
  static __device__ __forceinline__ PixelRange between(float low, float high, int64_t size) {
    if (!(high > low)) return {0, 0};
    const float most = static_cast<float>(size);
    return {static_cast<int64_t>(fminf(fmaxf(ceilf(low), 0.0f), most)),
            static_cast<int64_t>(fminf(fmaxf(ceilf(high), 0.0f), most))};
  }
  // Cells of the map, counted from the first that is shown.
  static __device__ __forceinline__ CellRange cells_between(const MapAxis& axis, float low, float high, int size) {
    const PixelRange cells = between(low, high, size);
    const int first = max(static_cast<int>(cells.first) - axis.first, 0);
    return {first, max(first, min(static_cast<int>(cells.end) - axis.first, axis.cells))};
  }
  // Pixels that are a mix with one of the cells.
  static __device__ __forceinline__ PixelRange touching(const MapAxis& axis, CellRange cells, int64_t pixels) {
    if (cells.first == cells.end) return {0, 0};
    const PixelRange all{0, pixels};
    return {first_pixel(axis, cells.first - 1, all), first_pixel(axis, cells.end, all)};
  }
  // Cells that the pixels are a mix of.
  static __device__ __forceinline__ CellRange touched(const MapAxis& axis, PixelRange pixels) {
    if (pixels.first >= pixels.end) return {0, 0};
    return {map_point(axis, pixels.first).low, map_point(axis, pixels.end - 1).high + 1};
  }

  __device__ __forceinline__ MapPlace place(int64_t k) const {
    const float* box = boxes + 4 * k;
    MapPlace place;
    if (cut_after) {
      place.columns = between(box[0], box[2], map.width);
      place.rows = between(box[1], box[3], map.height);
      place.across = touched(map.across, place.columns);
      place.down = touched(map.down, place.rows);
    } else {
      place.across = cells_between(map.across, box[0] * scale_x + shift_x, box[2] * scale_x + shift_x, map.map_w);
      place.down = cells_between(map.down, box[1] * scale_y + shift_y, box[3] * scale_y + shift_y, map.map_h);
      // Zero is what lies around the box, and below the threshold as a rule.
      const bool zero_inside = 0.0f > map.threshold;
      place.columns = zero_inside ? PixelRange{0, map.width} : touching(map.across, place.across, map.width);
      place.rows = zero_inside ? PixelRange{0, map.height} : touching(map.down, place.down, map.height);
    }
    if (place.rows.first >= place.rows.end) place.columns = {0, 0};
    return place;
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

struct ProductParams {
  PrototypeMasks masks;
  const float* coefficients;  // [K, P]
  const float* prototypes;    // [P, map_h, map_w]
  int64_t channels;
  float* maps;  // [K, map_h, map_w]
};

__global__ void __launch_bounds__(kThreads) prototype_products(const __grid_constant__ ProductParams p) {
  const int64_t k = blockIdx.x;
  const MapPlace place = p.masks.place(k);
  const MapParams& map = p.masks.map;
  const int across = place.across.end - place.across.first, down = place.down.end - place.down.first;
  const int cell = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  // The grid is made for boxes as large as the map.
  if (across <= 0 || cell >= across * down) return;
  const int row = map.down.first + place.down.first + cell / across;
  const int column = map.across.first + place.across.first + cell % across;
  const int64_t at = static_cast<int64_t>(row) * map.map_w + column;
  const int64_t size = static_cast<int64_t>(map.map_h) * map.map_w;
  const float* weights = p.coefficients + k * p.channels;
  const float* values = p.prototypes + at;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t channel = 0; channel < p.channels; channel++) sum += weights[channel] * values[channel * size];
  p.maps[k * size + at] = sum;
}

PrototypeMasks prototype_masks(const EncodePrototypes& op, const float* maps) {
  const MapParams map = map_params(op, maps);
  return {map, op.boxes, op.cut_after, map.across.scale, map.down.scale, op.crop[0], op.crop[1]};
}

}  // namespace

int64_t run_parts(const EncodePrototypes& op) { return column_parts(op.width); }

void prototype_maps(const EncodePrototypes& op, float* maps, Stream stream) {
  const int64_t cells = static_cast<int64_t>(op.map_h) * op.map_w;
  const dim3 grid(static_cast<unsigned>(op.count), static_cast<unsigned>(ceil_div<int64_t>(cells, kThreads)));
  launch("prototype_products", prototype_products, grid, kThreads, 0, stream,
         ProductParams{prototype_masks(op, maps), op.coefficients, op.prototypes, op.channels, maps});
}

void find_runs(const EncodePrototypes& op, const float* maps, uint64_t* packet, int64_t room, Stream stream) {
  const PrototypeMasks masks = prototype_masks(op, maps);
  find_runs_of("find_runs_of_products", masks, op.count, op.height, op.width, packet, room, map_tables(masks.map),
               stream);
}

}  // namespace htc::cuda
