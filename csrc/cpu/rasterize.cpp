// rasterize, rasterize_in_boxes: polygons to pixels as COCO has them. pycocotools walks along an outline in fifths of a
// pixel, from vertex to vertex; what its masks are made of is where this walk steps over the middle of a column, from
// its second to its third fifth. Only these steps are computed here, by the same additions and truncations.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")  // nobody looks at the exceptions, for which loops would stay scalar
#endif
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "cpu/run_lengths.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

constexpr double kFifths = 5;
constexpr double kFarthest = 1e15;  // pixels from the origin
constexpr int32_t kLanes = 8;
constexpr int64_t kRoom = int64_t{1} << 20;  // crossings in memory at a time, but for one column's

// From one vertex to the next in fifths, along its longer side in the direction in which that grows.
struct Edge {
  double x, y, dx, dy, slope;

  Edge(double x1, double y1, double x2, double y2) {
    dx = std::fabs(x2 - x1), dy = std::fabs(y2 - y1);
    const bool turned = flat() ? x1 > x2 : y1 > y2;
    x = turned ? x2 : x1, y = turned ? y2 : y1;
    const double to_x = turned ? x1 : x2, to_y = turned ? y1 : y2;
    slope = flat() ? (to_y - y) / dx : (to_x - x) / dy;
  }
  bool flat() const { return dx >= dy; }

  // Whether the step at that height has left the side of `bound` on which the edge begins.
  bool past(double height, double bound) const { return (x + slope * height + 0.5 >= bound) == (slope > 0); }

  // The height of the last step of a steep edge before it is past.
  double step_before(double bound) const {
    double low = 0, high = dy;
    while (high - low > 1) {
      const double middle = std::floor((low + high) / 2);
      if (middle <= low || middle >= high) break;  // numbers too large to tell steps apart
      (past(middle, bound) ? high : low) = middle;
    }
    return low;
  }
};

// One polygon after another; keeps its memory.
class Rasterizer {
 public:
  Rasterizer(int64_t height, int64_t width) : height_(height), width_(width) {}

  // The vertices move(x, y) of a polygon -> emit(column, begin, end) for its pixels, in ascending order.
  template <class Move, class Emit>
  void polygon(const double* points, int64_t count, const Move& move, const Emit& emit) {
    if (count < 3) return;  // there and back
    const size_t edges = static_cast<size_t>(count);
    xs_.resize(edges + 1), ys_.resize(edges + 1), firsts_.resize(edges), lasts_.resize(edges);
    for (size_t i = 0; i < edges; ++i) {
      const auto [x, y] = move(points[2 * i], points[2 * i + 1]);
      xs_[i] = std::trunc(kFifths * x + 0.5), ys_[i] = std::trunc(kFifths * y + 0.5);
    }
    xs_[edges] = xs_[0], ys_[edges] = ys_[0];
    find_columns(edges);
    int32_t low = std::numeric_limits<int32_t>::max(), high = -1;
    for (size_t i = 0; i < edges; ++i)
      if (lasts_[i] >= firsts_[i]) low = std::min(low, firsts_[i]), high = std::max(high, lasts_[i]);
    if (high < low) return;
    starts_.assign(static_cast<size_t>(high - low) + 2, 0);
    for (size_t i = 0; i < edges; ++i)
      if (lasts_[i] >= firsts_[i]) {
        ++starts_[static_cast<size_t>(firsts_[i] - low)];
        --starts_[static_cast<size_t>(lasts_[i] - low) + 1];
      }
    // Crossings of each column; then column by column as many as there is room for.
    for (size_t i = 1; i < starts_.size(); ++i) starts_[i] += starts_[i - 1];
    for (int64_t begin = low; begin <= high;) {
      int64_t total = starts_[static_cast<size_t>(begin - low)], end = begin + 1;
      while (end <= high && total + starts_[static_cast<size_t>(end - low)] <= kRoom)
        total += starts_[static_cast<size_t>(end++ - low)];
      block(begin, end, starts_.data() + (begin - low), total, emit);
      begin = end;
    }
  }

 private:
  // Of each edge the columns whose second and third fifth it holds both; the last is before the first where none are.
  void find_columns(size_t edges) {
    const double most = static_cast<double>(width_);
    const double* x = xs_.data();
    int32_t *first = firsts_.data(), *last = lasts_.data();
    for (size_t i = 0; i < edges; ++i) {
      const double a = x[i], b = x[i + 1], low = a < b ? a : b, high = a < b ? b : a;
      first[i] = static_cast<int32_t>(std::min(std::max(std::ceil((low - 2) / kFifths), 0.0), most));
      last[i] = static_cast<int32_t>(std::max(std::min(std::floor((high - 3) / kFifths), most - 1), -1.0));
    }
  }

  template <class Emit>
  void block(int64_t begin, int64_t end, const int64_t* counts, int64_t total, const Emit& emit) {
    places_.resize(static_cast<size_t>(end - begin));
    int64_t place = 0;
    for (int64_t c = 0; c < end - begin; ++c) places_[static_cast<size_t>(c)] = place, place += counts[c];
    rows_.resize(static_cast<size_t>(total));
    for (size_t i = 0; i < firsts_.size(); ++i) {
      const int64_t first = std::max<int64_t>(firsts_[i], begin), last = std::min<int64_t>(lasts_[i], end - 1);
      if (first > last) continue;
      cross(Edge(xs_[i], ys_[i], xs_[i + 1], ys_[i + 1]), first, last);
      for (int64_t c = first; c <= last; ++c)
        rows_[static_cast<size_t>(places_[static_cast<size_t>(c - begin)]++)] = line_[static_cast<size_t>(c - first)];
    }
    int32_t* rows = rows_.data();
    for (int64_t c = begin; c < end; rows += counts[c - begin], ++c) {
      const int64_t count = counts[c - begin];
      if (count == 2) {  // as most columns have
        const auto [upper, lower] = std::minmax(rows[0], rows[1]);
        if (upper < lower) emit(c, int64_t{upper}, int64_t{lower});
        continue;
      }
      if (count > 16) std::sort(rows, rows + count);
      else
        for (int64_t i = 1; i < count; ++i)
          for (int64_t j = i; j > 0 && rows[j - 1] > rows[j]; --j) std::swap(rows[j - 1], rows[j]);
      // Pairs; two crossings at one place are none.
      for (int64_t i = 0; i + 1 < count; i += 2)
        if (rows[i] < rows[i + 1]) emit(c, int64_t{rows[i]}, int64_t{rows[i + 1]});
    }
  }

  // The rows at which an edge steps over the middles of columns first to last, and of some behind it.
  void cross(const Edge& edge, int64_t first, int64_t last) {
    const int32_t count = static_cast<int32_t>((last - first) / kLanes + 1) * kLanes;
    if (static_cast<size_t>(count) > line_.size()) line_.resize(static_cast<size_t>(count));
    int32_t* line = line_.data();
    const double most = static_cast<double>(height_), y = edge.y, slope = edge.slope;
    const double bound = kFifths * static_cast<double>(first) + 3;
    // Of the two steps at a middle the upper one counts.
    const double before = bound - 1 - edge.x + (slope >= 0 ? 0 : 1);
    if (edge.flat())
      for (int32_t i = 0; i < count; ++i)
        line[i] = row(std::trunc(y + slope * (before + kFifths * static_cast<double>(i)) + 0.5), most);
    else if (!(slope > 0 ? climb<true>(edge, bound, count) : climb<false>(edge, bound, count)))
      for (int32_t i = 0; i <= last - first; ++i)
        line[i] = row(y + edge.step_before(bound + kFifths * static_cast<double>(i)), most);
  }

  // Fifths to a row; a product with a fifth is exact where the quotient is whole.
  static int32_t row(double level, double most) {
    return static_cast<int32_t>(std::min(std::max((level + 2) * 0.2, 0.0), most));
  }

  // The same of a steep edge by a guess for every column, right or one beside it; false where one was not.
  template <bool kRight>
  bool climb(const Edge& edge, double bound, int32_t count) {
    const double x = edge.x, y = edge.y, slope = edge.slope, inverse = 1 / slope, most = static_cast<double>(height_);
    const auto before = [x, slope](double height, double bound) {
      return (x + slope * height + 0.5 < bound) == kRight ? 1.0 : 0.0;
    };
    int32_t* line = line_.data();
    int32_t wrong = 0;
    for (int32_t i = 0; i < count; ++i) {
      const double at = bound + kFifths * static_cast<double>(i), guess = std::ceil((at - 0.5 - x) * inverse);
      wrong |= static_cast<int32_t>(1 - before(guess - 2, at) + before(guess + 1, at));
      line[i] = row(y + (guess - 2 + before(guess - 1, at) + before(guess, at)), most);
    }
    return wrong == 0;
  }

  int64_t height_, width_;
  std::vector<double> xs_, ys_;
  std::vector<int64_t> starts_, places_;
  std::vector<int32_t> firsts_, lasts_, rows_, line_;
};

// Runs of several polygons, each in ascending order, as one object's.
void unite(OneRuns& runs) {
  std::sort(runs.begin(), runs.end());
  size_t last = 0;
  for (size_t i = 1; i < runs.size(); ++i)
    if (runs[i].first <= runs[last].second) runs[last].second = std::max(runs[last].second, runs[i].second);
    else runs[++last] = runs[i];
  if (!runs.empty()) runs.resize(last + 1);
}

}  // namespace

void rasterize(const Rasterize& op, const Parallel& parallel) {
  const Polygons& all = op.polygons;
  std::atomic<int64_t> next{0};
  parallel(all.count, 4, [&](int64_t, int64_t) {
    Rasterizer rasterizer(op.height, op.width);
    Runs runs;
    for (int64_t k; (k = next.fetch_add(1)) < all.count;) {
      runs.ones.clear();
      for (int64_t q = all.objects[k]; q < all.objects[k + 1]; ++q)
        rasterizer.polygon(
            all.points + 2 * all.parts[q], all.parts[q + 1] - all.parts[q],
            [](double x, double y) { return std::pair(x, y); },
            [&](int64_t column, int64_t begin, int64_t end) {
              runs.add(column * op.height + begin, column * op.height + end);
            });
      if (all.objects[k + 1] - all.objects[k] > 1) unite(runs.ones);
      op.strings[k] = compress(runs, op.height * op.width);
    }
  });
}

void rasterize_in_boxes(const RasterizeInBoxes& op, const Parallel& parallel) {
  const int64_t cells = op.size * op.size;
  const double size = static_cast<double>(op.size);
  parallel(op.count, 4, [&](int64_t first, int64_t last) {
    Rasterizer rasterizer(op.size, op.size);
    std::fill(op.out + first * cells, op.out + last * cells, uint8_t{0});
    for (int64_t g = first; g < last; ++g) {
      const double* box = op.boxes + 4 * g;
      bool near = true;
      for (int i = 0; i < 4; ++i) near = near && std::fabs(box[i]) <= kFarthest;
      if (!near) continue;
      const auto scale = [&](double low, double high) {
        if (!op.single) return size / std::max(high - low, 0.1);
        const float side = static_cast<float>(high) - static_cast<float>(low);
        return side < 0.1 ? size / 0.1 : static_cast<double>(static_cast<float>(op.size) / side);
      };
      const double wide = scale(box[0], box[2]), high = scale(box[1], box[3]);
      uint8_t* out = op.out + g * cells;
      for (int64_t q = op.polygons.objects[op.index[g]]; q < op.polygons.objects[op.index[g] + 1]; ++q)
        rasterizer.polygon(
            op.polygons.points + 2 * op.polygons.parts[q], op.polygons.parts[q + 1] - op.polygons.parts[q],
            [&](double x, double y) { return std::pair((x - box[0]) * wide, (y - box[1]) * high); },
            [&](int64_t column, int64_t begin, int64_t end) {
              for (int64_t row = begin; row < end; ++row) out[row * op.size + column] = 1;
            });
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
