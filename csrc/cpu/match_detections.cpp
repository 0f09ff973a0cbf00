// Detections matched with truths as COCOeval does it, cell by cell: overlaps once, then every range and threshold.
#include <algorithm>
#include <atomic>

#include "cpu/boundary.h"
#include "cpu/run_reader.h"
#include "evaluation.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

double threshold_of(const MatchDetections& op, int64_t t) { return std::min(op.iou_thresholds[t], 1 - 1e-10); }

// Area that two boxes share; 0 unless both sides are positive.
double shared_of_boxes(const double* a, const double* b) {
  const double w = std::min(a[2] + a[0], b[2] + b[0]) - std::max(a[0], b[0]);
  const double h = std::min(a[3] + a[1], b[3] + b[1]) - std::max(a[1], b[1]);
  return w > 0 && h > 0 ? w * h : 0;
}

int64_t shared_of_runs(const OneRuns& a, const OneRuns& b) {
  int64_t sum = 0;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const int64_t end = std::min(a[i].second, b[j].second);
    sum += std::max<int64_t>(0, end - std::max(a[i].first, b[j].first));
    i += a[i].second == end, j += b[j].second == end;
  }
  return sum;
}

int64_t pixels_of(const OneRuns& runs) {
  int64_t sum = 0;
  for (const auto& [begin, end] : runs) sum += end - begin;
  return sum;
}

// A mask's runs and its boundary's, made when they are first asked for.
class Shape {
 public:
  const OneRuns& runs(const MaskTexts& masks, int64_t k) {
    if (!read_) {
      runs_.clear();
      read_counts(masks.text + masks.offsets[k], masks.text + masks.offsets[k + 1],
                  masks.sizes[2 * k] * masks.sizes[2 * k + 1], [&](int64_t begin, int64_t end) { add(begin, end); });
      read_ = true;
    }
    return runs_;
  }
  const OneRuns& boundary(const MaskTexts& masks, int64_t k, double ratio, BoundaryMaker& make) {
    if (!walked_) {
      const int64_t height = masks.sizes[2 * k], width = masks.sizes[2 * k + 1];
      boundary_ = make(runs(masks, k), height, width, boundary_width(ratio, height, width));
      pixels_ = pixels_of(boundary_), walked_ = true;
    }
    return boundary_;
  }
  int64_t boundary_pixels() const { return pixels_; }
  void forget() { read_ = walked_ = false; }

 private:
  void add(int64_t begin, int64_t end) {  // runs that touch are one: a boundary lies at its ends
    if (!runs_.empty() && runs_.back().second == begin) runs_.back().second = end;
    else runs_.push_back({begin, end});
  }

  OneRuns runs_, boundary_;
  int64_t pixels_ = 0;
  bool read_ = false, walked_ = false;
};

// One thread's work on cells, one after the other.
class Matcher {
 public:
  explicit Matcher(const MatchDetections& op) : op_(op) {
    for (int64_t t = 0; t < op.thresholds; ++t) least_ = std::min(least_, threshold_of(op, t));
  }

  void match(int64_t cell) {
    first_ = op_.found.ends[cell], truth_ = op_.truth.ends[cell];
    found_count_ = op_.found.ends[cell + 1] - first_, truth_count_ = op_.truth.ends[cell + 1] - truth_;
    std::fill_n(op_.matched + first_ * op_.ranges, found_count_ * op_.ranges, uint16_t{0});
    std::fill_n(op_.uncounted + first_ * op_.ranges, found_count_ * op_.ranges, uint16_t{0});
    overlaps();
    for (int64_t range = 0; range < op_.ranges; ++range) {
      if (!candidates_.empty()) {
        sort_truths(range);
        for (int64_t t = 0; t < op_.thresholds; ++t) assign(range, t);
      }
      leave_out(range, op_.lenient[cell] != 0);
    }
  }

 private:
  // Of detections by truths, and who overlaps anything enough. What lies below every threshold may be left at 0.
  void overlaps() {
    candidates_.clear();
    if (truth_count_ == 0) return;
    ious_.assign(static_cast<size_t>(found_count_ * truth_count_), 0.0);
    shapes_.resize(std::max(shapes_.size(), static_cast<size_t>(truth_count_)));
    for (Shape& one : shapes_) one.forget();
    for (int64_t d = 0; d < found_count_; ++d) {
      bool any = false;
      own_.forget();
      for (int64_t g = 0; g < truth_count_; ++g) {
        const double iou = op_.by == OverlapOf::boxes ? box_iou(d, g) : mask_iou(d, g);
        ious_[static_cast<size_t>(d * truth_count_ + g)] = iou;
        any |= iou >= least_;
      }
      if (any) candidates_.push_back(d);
    }
  }

  int64_t found_at(int64_t d) const { return op_.found.order[first_ + d]; }
  int64_t truth_at(int64_t g) const { return op_.truth.order[truth_ + g]; }

  double box_iou(int64_t d, int64_t g) const {
    const double *a = op_.found.boxes + 4 * found_at(d), *b = op_.truth.boxes + 4 * truth_at(g);
    const double shared = shared_of_boxes(a, b);
    if (shared == 0) return 0;
    return shared / (op_.crowd[truth_at(g)] ? a[2] * a[3] : a[2] * a[3] + b[2] * b[3] - shared);
  }

  double mask_iou(int64_t d, int64_t g) {
    const int64_t i = found_at(d), j = truth_at(g);
    const double a = op_.found.pixels[i], b = op_.truth.pixels[j];
    const bool crowd = op_.crowd[j] != 0;
    const auto iou = [&](double shared) { return shared / (crowd ? a : a + b - shared); };
    // More than their boxes share, or the smaller has, they cannot.
    const double most = std::min({shared_of_boxes(op_.found.boxes + 4 * i, op_.truth.boxes + 4 * j), a, b});
    if (most <= 0 || iou(most) < least_) return 0;
    Shape& other = shapes_[static_cast<size_t>(g)];
    const int64_t shared = shared_of_runs(own_.runs(op_.found.masks, i), other.runs(op_.truth.masks, j));
    const double whole = iou(static_cast<double>(shared));
    if (op_.by == OverlapOf::masks || crowd || whole < least_) return whole;
    const OneRuns& mine = own_.boundary(op_.found.masks, i, op_.boundary, make_boundary_);
    const OneRuns& its = other.boundary(op_.truth.masks, j, op_.boundary, make_boundary_);
    const int64_t both = shared_of_runs(mine, its);
    const int64_t either = own_.boundary_pixels() + other.boundary_pixels() - both;
    return both == 0 ? 0 : std::min(whole, static_cast<double>(both) / static_cast<double>(either));
  }

  bool outside(double area, int64_t range) const {
    return area < op_.range_limits[2 * range] || area > op_.range_limits[2 * range + 1];
  }

  // Those that count first, otherwise as they came.
  void sort_truths(int64_t range) {
    order_.clear();
    ignored_.clear();
    for (int64_t g = 0; g < truth_count_; ++g) {
      const int64_t k = truth_at(g);
      (op_.ignored[k] || outside(op_.truth.areas[k], range) ? ignored_ : order_).push_back(g);
    }
    counted_ = order_.size();
    order_.insert(order_.end(), ignored_.begin(), ignored_.end());
  }

  void assign(int64_t range, int64_t t) {
    taken_.assign(order_.size(), 0);
    const size_t none = order_.size();
    const uint16_t bit = static_cast<uint16_t>(1 << t);
    for (const int64_t d : candidates_) {
      double best = threshold_of(op_, t);
      size_t match = none;
      for (size_t n = 0; n < order_.size(); ++n) {
        if (taken_[n] && !op_.crowd[truth_at(order_[n])]) continue;
        if (match < counted_ && n >= counted_) break;
        const double iou = ious_[static_cast<size_t>(d * truth_count_ + order_[n])];
        if (iou >= best) best = iou, match = n;
      }
      if (match == none) continue;
      const int64_t place = (first_ + d) * op_.ranges + range;
      op_.matched[place] |= bit;
      if (match >= counted_) op_.uncounted[place] |= bit;
      taken_[match] = 1;
    }
  }

  // What found nothing does not count where it is not of this size.
  void leave_out(int64_t range, bool all) {
    const uint16_t bits = static_cast<uint16_t>((1 << op_.thresholds) - 1);
    for (int64_t d = 0; d < found_count_; ++d) {
      if (!all && !outside(op_.found.areas[found_at(d)], range)) continue;
      const int64_t place = (first_ + d) * op_.ranges + range;
      op_.uncounted[place] |= static_cast<uint16_t>(bits & ~op_.matched[place]);
    }
  }

  const MatchDetections& op_;
  double least_ = 1;
  int64_t first_ = 0, truth_ = 0, found_count_ = 0, truth_count_ = 0;
  std::vector<double> ious_;
  std::vector<int64_t> candidates_, order_, ignored_;
  size_t counted_ = 0;
  std::vector<uint8_t> taken_;
  std::vector<Shape> shapes_;
  Shape own_;
  BoundaryMaker make_boundary_;
};

}  // namespace

void match_detections(const MatchDetections& op, const Parallel& parallel) {
  constexpr int64_t kPart = 32;
  std::atomic<int64_t> next{0};
  parallel((op.cells + kPart - 1) / kPart, 1, [&](int64_t, int64_t) {
    Matcher matcher(op);
    for (int64_t from; (from = kPart * next.fetch_add(1)) < op.cells;)
      for (int64_t cell = from; cell < std::min(from + kPart, op.cells); ++cell) matcher.match(cell);
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
