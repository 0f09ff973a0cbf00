// encode_masks: the runs of ones of every mask that paste_masks would make (find_runs.cuh). A column is walked cell by
// cell: between two cells the value is a mix of both, so where both are clearly below or above the threshold no pixel
// needs a look.
#include "cuda/find_runs.cuh"
#include "cuda/mask_lines.cuh"

namespace htc::cuda {
namespace {

struct PastedMasks {
  MaskParams mask;

  __device__ __forceinline__ MaskPlace place(int64_t k) const { return place_mask(mask, k); }

  // starts[s]: the box's first row whose lower cell is s or later; [mask_h + 2], the last one is the number of rows.
  __device__ __forceinline__ void prepare(const MaskPlace& place, uint32_t* starts) const {
    const int64_t count = place.rows.end - place.rows.first;
    auto cell_of = [&](int64_t row) {
      return mask_point(place.rows.first + row, place.box.y1, place.box.y2, mask.mask_h).cell;
    };
    for (int64_t row = threadIdx.x; row <= count; row += kRunColumns) {
      const int before = row == 0 ? -1 : cell_of(row - 1), cell = row == count ? mask.mask_h + 1 : cell_of(row);
      for (int s = before + 1; s <= cell; s++) starts[s] = static_cast<uint32_t>(row);
    }
  }

  template <class Emit>
  __device__ __forceinline__ void walk(const MaskPlace& place, int64_t k, const uint32_t* starts, int64_t column,
                                       Emit emit) const {
    const float* cells = mask.masks + k * mask.mask_h * mask.mask_w;
    // Beyond rounding: the mix of two values is never outside these by more.
    const float clearly_above = mask.threshold + fabsf(mask.threshold) * 1e-5f + 1e-30f;
    const float clearly_below = mask.threshold - fabsf(mask.threshold) * 1e-5f - 1e-30f;
    const MaskPoint across = mask_point(column, place.box.x1, place.box.x2, mask.mask_w);
    const auto top = static_cast<uint32_t>(place.rows.first);
    Turns<Emit> turn{emit};
    float a = 0.0f;
    for (int s = 0; s <= mask.mask_h; s++) {
      const float b = column_value(mask, cells, s + 1, across);
      const uint32_t first = starts[s], end = starts[s + 1];
      if (first < end) {
        const bool below = a < clearly_below && b<clearly_below, above = a> clearly_above && b > clearly_above;
        if (below || above) {
          turn(above, top + first);
        } else {
          for (uint32_t row = first; row < end; row++) {
            const MaskPoint at = mask_point(place.rows.first + row, place.box.y1, place.box.y2, mask.mask_h);
            turn(a * at.lower + b * at.upper >= mask.threshold, top + row);
          }
        }
      }
      a = b;
    }
    turn(false, top + starts[mask.mask_h + 1]);
  }
};

}  // namespace

int64_t run_parts(const EncodeMasks& op) { return column_parts(op.width); }

void find_runs(const EncodeMasks& op, uint64_t* packet, int64_t room, Stream stream) {
  const size_t shared = sizeof(uint32_t) * (static_cast<size_t>(op.mask_h) + 2);
  find_runs_of("find_runs", PastedMasks{mask_params(op)}, op.count, op.height, op.width, packet, room, shared, stream);
}

}  // namespace htc::cuda
