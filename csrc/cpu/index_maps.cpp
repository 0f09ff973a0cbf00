// measure_layers, take_pixels: what is in index maps, and the same maps in another size.
#include <algorithm>
#include <cstring>

#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// Where another number than that at x begins: many pixels at a time, as numbers lie beside each other in rows.
template <class T>
int64_t end_of(const T* row, int64_t x, int64_t width) {
  constexpr int64_t kStep = 32 / sizeof(T);
  const T number = row[x++];
  for (; x + kStep <= width; x += kStep) {
    T other = 0;
    for (int64_t i = 0; i < kStep; ++i) other = static_cast<T>(other | (row[x + i] ^ number));
    if (other) break;
  }
  while (x < width && row[x] == number) ++x;
  return x;
}

template <class T>
void measure(const MeasureLayers& op) {
  std::fill(op.out, op.out + 6 * op.length, int64_t{0});
  for (int64_t line = 0; line < op.maps * op.height; ++line) {
    const T* row = static_cast<const T*>(op.layers) + line * op.width;
    const int64_t layer = line / op.height, y = line % op.height;
    for (int64_t x = 0, end = 0; x < op.width; x = end) {
      end = end_of(row, x, op.width);
      const auto number = static_cast<int64_t>(row[x]);
      if (number <= 0 || number >= op.length) continue;
      int64_t* found = op.out + 6 * number;
      const bool first = found[0] == 0;
      found[0] += end - x;
      found[1] = first ? x : std::min(found[1], x);
      found[2] = first ? y : std::min(found[2], y);
      found[3] = std::max(found[3], end);
      found[4] = std::max(found[4], y + 1);
      found[5] = layer;
    }
  }
}

template <class T>
void take(const TakePixels& op, const Parallel& parallel) {
  const std::vector<int32_t> columns(op.columns, op.columns + op.out_width);
  parallel(op.maps * op.out_height, 64, [&](int64_t first, int64_t last) {
    for (int64_t line = first; line < last; ++line) {
      const int64_t map = line / op.out_height, y = line % op.out_height;
      T* out = static_cast<T*>(op.out) + line * op.out_width;
      if (line > first && y > 0 && op.rows[y] == op.rows[y - 1]) {
        std::copy(out - op.out_width, out, out);
        continue;
      }
      const T* in = static_cast<const T*>(op.in) + (map * op.height + op.rows[y]) * op.width;
      for (int64_t x = 0; x < op.out_width; ++x) out[x] = in[columns[static_cast<size_t>(x)]];
    }
  });
}

}  // namespace

void measure_layers(const MeasureLayers& op, const Parallel&) {
  if (op.bytes == 2) measure<int16_t>(op);
  else measure<int32_t>(op);
}

void take_pixels(const TakePixels& op, const Parallel& parallel) {
  if (op.bytes == 1) take<uint8_t>(op, parallel);
  else if (op.bytes == 2) take<int16_t>(op, parallel);
  else take<int32_t>(op, parallel);
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
