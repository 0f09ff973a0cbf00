// encode_prototypes: the product of coefficients and prototypes only in the cells that a box's pixels are a mix of,
// then run lengths as encode_logits finds them.
#include <atomic>

#include "cpu/logit_lines.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

struct Range {
  int64_t first, end;
};

// Whole numbers i from 0 to `size` with low <= i < high.
Range between(float low, float high, int64_t size) {
  if (!(low < high)) return {0, 0};
  const double most = static_cast<double>(size);
  const auto whole = [&](double x) { return static_cast<int64_t>(std::clamp(std::ceil(x), 0.0, most)); };
  return {whole(low), whole(high)};
}

// Of one axis: the image's pixels that can be above the threshold, the cells that they are a mix of, and those of them
// that are not zero.
struct Extent {
  Range pixels, cells, filled;

  bool empty() const { return pixels.first >= pixels.end; }
};

Extent extent(const EncodePrototypes& op, const CellAxis& axis, float low, float high, int size, float shift) {
  const int64_t pixels = static_cast<int64_t>(axis.cell.size());
  Extent found{};
  if (op.cut_after) {
    found.pixels = between(low, high, pixels);
  } else {
    const Range inside = between(low * axis.scale + shift, high * axis.scale + shift, size);
    found.filled = {std::max<int64_t>(inside.first - axis.first, 0),
                    std::min<int64_t>(inside.end - axis.first, axis.count)};
    if (found.filled.first >= found.filled.end) return {};
    const auto first_from = [&](int64_t cell) {
      return std::lower_bound(axis.cell.begin(), axis.cell.end(), cell) - axis.cell.begin();
    };
    found.pixels = {first_from(found.filled.first - 1), first_from(found.filled.end)};
  }
  if (found.empty()) return {};
  const auto cell = [&](int64_t pixel) { return axis.cell[static_cast<size_t>(pixel)]; };
  found.cells = {cell(found.pixels.first), std::min(cell(found.pixels.end - 1) + 2, axis.count)};
  if (op.cut_after) found.filled = found.cells;
  found.filled = {std::max(found.filled.first, found.cells.first), std::min(found.filled.end, found.cells.end)};
  return found;
}

// Cells of a row, kVectors vectors of them, prototype by prototype in their order.
template <int kVectors>
void product(const EncodePrototypes& op, const float* weights, const float* first, float* out) {
  const int64_t size = static_cast<int64_t>(op.map_h) * op.map_w;
  Vec sums[kVectors] = {};
  for (int64_t p = 0; p < op.channels; ++p)
    for (int i = 0; i < kVectors; ++i)
      sums[i] = sums[i] + weights[p] * *reinterpret_cast<const Unaligned*>(first + p * size + i * kWidth);
  for (int i = 0; i < kVectors; ++i) *reinterpret_cast<Unaligned*>(out + i * kWidth) = sums[i];
}

constexpr int64_t kBlock = 4 * kWidth;

// One mask's map, turned, in the cells of both extents.
class Product {
 public:
  Product(const EncodePrototypes& op, const LogitLines& lines)
      : op_(op),
        lines_(lines),
        turned_(static_cast<size_t>(lines.across().count * lines.stride())),
        row_(static_cast<size_t>(lines.across().count + kBlock)) {}

  const float* make(int64_t k, const Extent& across, const Extent& down) {
    const int64_t stride = lines_.stride();
    for (int64_t c = across.cells.first; c < across.cells.end; ++c) {
      float* column = turned_.data() + c * stride;
      std::fill(column, column + stride, kOutside);
      std::fill(column + down.cells.first, column + down.cells.end, 0.0f);
    }
    for (int64_t r = down.filled.first; r < down.filled.end; ++r) {
      make_row(k, r, across.filled);
      float* out = turned_.data() + r;
      for (int64_t c = across.filled.first; c < across.filled.end; ++c)
        out[c * stride] = row_[static_cast<size_t>(c - across.filled.first)];
    }
    for (int64_t c = across.cells.first; c < across.cells.end; ++c) lines_.fill(turned_.data() + c * stride);
    return turned_.data();
  }

 private:
  void make_row(int64_t k, int64_t r, Range columns) {
    const float* weights = op_.coefficients + k * op_.channels;
    const int64_t start = (lines_.down().first + r) * op_.map_w + lines_.across().first;
    const int64_t size = static_cast<int64_t>(op_.map_h) * op_.map_w;
    for (int64_t c = columns.first; c < columns.end; c += kBlock) {
      float* out = row_.data() + (c - columns.first);
      const float* first = op_.prototypes + start + c;
      const int64_t vectors = std::min<int64_t>((columns.end - c + kWidth - 1) / kWidth, 4);
      // A block may read beyond the row, not beyond the prototypes.
      if (start + c + vectors * kWidth <= size) {
        if (vectors == 1) product<1>(op_, weights, first, out);
        else if (vectors == 2) product<2>(op_, weights, first, out);
        else if (vectors == 3) product<3>(op_, weights, first, out);
        else product<4>(op_, weights, first, out);
        continue;
      }
      for (int64_t i = c; i < std::min(columns.end, c + kBlock); ++i) {
        float sum = 0.0f;
        for (int64_t p = 0; p < op_.channels; ++p) sum = sum + weights[p] * op_.prototypes[p * size + start + i];
        *out++ = sum;
      }
    }
  }

  // Below every threshold that people have: no pixel of the box is a mix with it.
  static constexpr float kOutside = -1e30f;
  const EncodePrototypes& op_;
  const LogitLines& lines_;
  std::vector<float> turned_, row_;
};

}  // namespace

void encode_prototypes(const EncodePrototypes& op, const Parallel& parallel) {
  std::atomic<int64_t> next{0};
  parallel(op.count, 1, [&](int64_t, int64_t) {
    LogitLines lines(op.crop, op.height, op.width, op.threshold);
    Product maps(op, lines);
    Runs runs;
    for (int64_t k; (k = next.fetch_add(1)) < op.count;) {
      const float* box = op.boxes + 4 * k;
      const Extent across = extent(op, lines.across(), box[0], box[2], op.map_w, op.crop[0]);
      const Extent down = extent(op, lines.down(), box[1], box[3], op.map_h, op.crop[1]);
      runs.ones.clear();
      if (!across.empty() && !down.empty())
        lines.walk(maps.make(k, across, down), across.pixels.first, across.pixels.end, down.pixels.first,
                   down.pixels.end, runs);
      op.strings[k] = compress(runs, op.height * op.width);
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
