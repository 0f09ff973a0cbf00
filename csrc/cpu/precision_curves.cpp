// Precision at COCO's recalls, in the arithmetic of COCOeval. Only where a detection finds something can precision
// rise, so only those places are kept.
#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>

#include "evaluation.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

struct Place {
  double score;
  int64_t place;
};

struct Rise {
  double precision, score;
};

class Curves {
 public:
  Curves(const PrecisionCurves& op, const Place* order) : op_(op), order_(order) {
    rises_.resize(static_cast<size_t>(op.thresholds)), misses_.resize(rises_.size());
  }

  void draw(int64_t label, int64_t range, int64_t limit) {
    const int64_t truths = op_.truths[label * op_.ranges + range];
    if (truths == 0) return;
    walk(label, range, op_.most[limit]);
    for (int64_t t = 0; t < op_.thresholds; ++t) {
      std::vector<Rise>& rises = rises_[static_cast<size_t>(t)];
      for (size_t n = rises.size(); n-- > 1;)
        rises[n - 1].precision = std::max(rises[n - 1].precision, rises[n].precision);
      const auto recall_of = [&](size_t n) { return static_cast<double>(n) / static_cast<double>(truths); };
      op_.recall[((t * op_.classes + label) * op_.ranges + range) * op_.limits + limit] = recall_of(rises.size());
      size_t found = 0;  // detections that suffice
      for (int64_t r = 0; r < op_.recalls; ++r) {
        while (found <= rises.size() && recall_of(found) < op_.recall_thresholds[r]) ++found;
        const int64_t place = (((t * op_.recalls + r) * op_.classes + label) * op_.ranges + range) * op_.limits + limit;
        const Rise at = rise_at(rises, found);
        op_.precision[place] = at.precision, op_.score_at[place] = at.score;
      }
    }
  }

 private:
  // Where the recall of `found` detections is reached first; that of none is where the best one lies.
  Rise rise_at(const std::vector<Rise>& rises, size_t found) const {
    if (found > rises.size() || !any_) return {0, 0};
    if (found > 0) return rises[found - 1];
    return {rises.empty() ? 0 : rises[0].precision, best_};
  }

  void walk(int64_t label, int64_t range, int64_t most) {
    for (auto& one : rises_) one.clear();
    std::fill(misses_.begin(), misses_.end(), 0);
    any_ = false;
    int64_t missed_by_all = 0;
    const uint16_t bits = static_cast<uint16_t>((1 << op_.thresholds) - 1);
    for (int64_t n = op_.ends[label]; n < op_.ends[label + 1]; ++n) {
      const auto [score, place] = order_[n];
      if (op_.ranks[place] >= most) continue;
      if (!any_) any_ = true, best_ = score;
      const uint16_t matched = op_.matched[place * op_.ranges + range];
      const uint16_t counts = static_cast<uint16_t>(bits & ~op_.uncounted[place * op_.ranges + range]);
      if (matched == 0 && counts == bits) {
        ++missed_by_all;
        continue;
      }
      for (uint32_t left = counts; left != 0; left &= left - 1) {
        const size_t t = static_cast<size_t>(std::countr_zero(left));
        if (!(matched >> t & 1)) ++misses_[t];
        else rise(rises_[t], misses_[t] + missed_by_all, score);
      }
    }
  }

  static void rise(std::vector<Rise>& rises, int64_t misses, double score) {
    const double hits = static_cast<double>(rises.size() + 1);
    rises.push_back({hits / (static_cast<double>(misses) + hits + std::numeric_limits<double>::epsilon()), score});
  }

  const PrecisionCurves& op_;
  const Place* order_;
  std::vector<std::vector<Rise>> rises_;
  std::vector<int64_t> misses_;
  bool any_ = false;
  double best_ = 0;
};

}  // namespace

void precision_curves(const PrecisionCurves& op, const Parallel& parallel) {
  const int64_t curves = op.thresholds * op.classes * op.ranges * op.limits;
  std::fill_n(op.precision, curves * op.recalls, -1.0);
  std::fill_n(op.score_at, curves * op.recalls, -1.0);
  std::fill_n(op.recall, curves, -1.0);
  std::vector<Place> order(static_cast<size_t>(op.ends[op.classes]));
  std::atomic<int64_t> sorted{0}, drawn{0};
  parallel(op.classes, 1, [&](int64_t, int64_t) {
    for (int64_t k; (k = sorted.fetch_add(1)) < op.classes;) {
      for (int64_t n = op.ends[k]; n < op.ends[k + 1]; ++n) order[static_cast<size_t>(n)] = {op.scores[n], n};
      std::stable_sort(order.begin() + op.ends[k], order.begin() + op.ends[k + 1],
                       [](const Place& a, const Place& b) { return a.score > b.score; });
    }
  });
  parallel(op.classes * op.ranges, 1, [&](int64_t, int64_t) {
    Curves one(op, order.data());
    for (int64_t n; (n = drawn.fetch_add(1)) < op.classes * op.ranges;)
      for (int64_t limit = 0; limit < op.limits; ++limit) one.draw(n / op.ranges, n % op.ranges, limit);
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
