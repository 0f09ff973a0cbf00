// rle_to_polygons: outlines of masks, from their runs alone. A run inside one column is a stretch; its top and its
// bottom are cracks, one pixel long, and every outline is a ring of them, joined by what lies between two columns.
// Walked with the mask on the right: tops to the right, bottoms to the left, so that each crack has one successor.
#include <algorithm>
#include <atomic>

#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

struct Crack {
  int64_t x, y;
  int64_t next = -1;
  int64_t ring = -1;
  int64_t corner = 0;             // the last corner of its ring before it
  int64_t corners[2] = {-1, -1};  // where it ends and where it begins, if pixels touch diagonally there: their number
};

struct Ring {
  std::vector<int64_t> points;  // x, y of its corners
  bool outer;
  int64_t first = 0;             // the leftmost corner, the upper one of those
  int64_t bridge = -1;           // of a hole: the crack above its first corner, on another ring of the same piece
  std::vector<int64_t> bridges;  // of the cracks from which holes are reached

  int64_t size() const { return static_cast<int64_t>(points.size() / 2); }
  int64_t x(int64_t i) const { return points[static_cast<size_t>(2 * i)]; }
  int64_t y(int64_t i) const { return points[static_cast<size_t>(2 * i) + 1]; }
};

class Tracer {
 public:
  explicit Tracer(int64_t height) : height_(height) {}

  void trace(const std::pair<int64_t, int64_t>* runs, int64_t count) {
    cut(runs, count);
    join_columns();
    for (int64_t crack = 0; crack < static_cast<int64_t>(cracks_.size()); ++crack)
      if (cracks_[static_cast<size_t>(crack)].ring < 0) walk(crack);
    for (size_t r = 0; r < rings_.size(); ++r) place(static_cast<int64_t>(r));
  }

  void write(bool bridged, Outlines& out) {
    out.rings.push_back(0), out.pieces.push_back(0);
    std::vector<std::vector<int64_t>> holes(rings_.size());
    std::vector<int64_t> owner(rings_.size());
    for (const int64_t r : in_order()) {
      const Ring& one = ring(r);
      owner[static_cast<size_t>(r)] = one.outer ? r : owner[static_cast<size_t>(crack(one.bridge).ring)];
      if (!one.outer) holes[static_cast<size_t>(owner[static_cast<size_t>(r)])].push_back(r);
    }
    for (const int64_t r : in_order()) {
      if (!ring(r).outer) continue;
      if (bridged) write_bridged(r, out);
      else write_plain(r, out);
      for (const int64_t hole : holes[static_cast<size_t>(r)])
        if (!bridged) write_plain(hole, out);
      out.pieces.push_back(static_cast<int64_t>(out.rings.size()) - 1);
    }
  }

 private:
  struct Corner {
    int64_t x, y, walked;  // cracks of this ring before it
  };

  Crack& crack(int64_t i) { return cracks_[static_cast<size_t>(i)]; }
  Ring& ring(int64_t i) { return rings_[static_cast<size_t>(i)]; }
  static bool is_top(int64_t crack) { return crack % 2 == 0; }

  // Runs to stretches of one column: cracks 2s and 2s + 1.
  void cut(const std::pair<int64_t, int64_t>* runs, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t at = runs[i].first; at < runs[i].second;) {
        const int64_t x = at / height_, end = std::min(runs[i].second, (x + 1) * height_);
        cracks_.push_back({x, at - x * height_}), cracks_.push_back({x, end - x * height_});
        at = end;
      }
  }

  // Between two columns the ends of their cracks, from top to bottom, belong together by twos. Where one ends and
  // another begins at one height, pixels touch at a corner alone: the one above keeps what is above.
  void join_columns() {
    const int64_t count = static_cast<int64_t>(cracks_.size());
    for (int64_t left = 0, middle = 0, right = 0; middle < count || left < middle;) {
      // [left, middle) is the column before line x, [middle, right) the one behind it.
      const int64_t x = left < middle ? crack(left).x + 1 : crack(middle).x;
      right = middle;
      while (right < count && crack(right).x == x) ++right;
      join(left, middle, right);
      left = middle, middle = right;
    }
  }

  void join(int64_t left, int64_t middle, int64_t right) {
    int64_t pending = -1, before = -1, begin = middle;
    while (left < middle || begin < right) {
      const auto upper = [&](int64_t one) { return std::pair(crack(one).y, is_top(one)); };
      const bool from_left = begin == right || (left < middle && upper(left) <= upper(begin));
      const int64_t one = from_left ? left++ : begin++;
      // A bottom and a top at one height, of two columns.
      if (before >= 0 && crack(before).y == crack(one).y && is_top(before) != is_top(one)) {
        mark(before, middle), mark(one, middle);
        ++touching_;
      }
      before = one;
      if (pending < 0) {
        pending = one;
        continue;
      }
      // Walked through from the crack that ends on this line: a top of the left column, a bottom of the right one.
      if (ends_here(pending, middle)) crack(pending).next = one;
      else crack(one).next = pending;
      pending = -1;
    }
  }
  static bool ends_here(int64_t one, int64_t middle) { return is_top(one) == (one < middle); }
  void mark(int64_t one, int64_t middle) { crack(one).corners[ends_here(one, middle) ? 0 : 1] = touching_; }

  // One walk; where it comes to a corner for the second time, what lies between becomes a ring of its own.
  void walk(int64_t start) {
    seen_.resize(static_cast<size_t>(touching_), -1);
    corners_.clear(), walked_.clear();
    int64_t at = start;
    do {
      walked_.push_back(at);
      crack(at).corner = static_cast<int64_t>(corners_.size()) - 1;
      crack(at).ring = 0;
      const int64_t next = crack(at).next, x = is_top(at) ? crack(at).x + 1 : crack(at).x;
      if (crack(at).y != crack(next).y) {
        corner(x, crack(at).y, crack(at).corners[0]);
        corner(x, crack(next).y, crack(next).corners[1]);
      }
      at = next;
    } while (at != start);
    close(0, 0, is_top(start));
  }

  void corner(int64_t x, int64_t y, int64_t touching) {
    if (touching >= 0) {
      int64_t& seen = seen_[static_cast<size_t>(touching)];
      if (seen >= 0 && seen < static_cast<int64_t>(corners_.size()) && corners_[static_cast<size_t>(seen)].x == x &&
          corners_[static_cast<size_t>(seen)].y == y) {
        close(seen, corners_[static_cast<size_t>(seen)].walked, false);
        corners_.resize(static_cast<size_t>(seen) + 1);
        walked_.resize(static_cast<size_t>(corners_.back().walked));
        return;
      }
      seen = static_cast<int64_t>(corners_.size());
    }
    corners_.push_back({x, y, static_cast<int64_t>(walked_.size())});
  }

  // A ring of the corners from `first` on and the cracks from `walked` on.
  void close(int64_t first, int64_t walked, bool outer) {
    Ring made;
    made.outer = outer;
    for (size_t i = static_cast<size_t>(first); i < corners_.size(); ++i) {
      made.points.push_back(corners_[i].x), made.points.push_back(corners_[i].y);
      const int64_t last = made.size() - 1;
      if (std::pair(made.x(last), made.y(last)) < std::pair(made.x(made.first), made.y(made.first))) made.first = last;
    }
    const int64_t size = made.size();
    for (size_t i = static_cast<size_t>(walked); i < walked_.size(); ++i) {
      Crack& one = crack(walked_[i]);
      one.ring = static_cast<int64_t>(rings_.size());
      // Counted from the ring's first corner on.
      one.corner = (one.corner - first + 2 * size - made.first) % size;
      if (!outer && one.y == made.y(made.first) && one.x == made.x(made.first) && !is_top(walked_[i]))
        made.bridge = walked_[i] - 1;
    }
    rings_.push_back(std::move(made));
  }

  void place(int64_t r) {
    if (!ring(r).outer) ring(crack(ring(r).bridge).ring).bridges.push_back(r);
  }

  // Rings by their first corners: that from which a bridge reaches a hole comes before the hole.
  std::vector<int64_t> in_order() {
    std::vector<int64_t> order(rings_.size());
    for (size_t r = 0; r < order.size(); ++r) order[r] = static_cast<int64_t>(r);
    const auto key = [&](int64_t r) {
      const Ring& one = ring(r);
      return std::tuple(one.x(one.first), one.y(one.first), !one.outer);
    };
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key(a) < key(b); });
    return order;
  }

  void write_plain(int64_t r, Outlines& out) {
    const Ring& one = ring(r);
    const auto begin = one.points.begin(), middle = begin + 2 * one.first;
    out.points.insert(out.points.end(), middle, one.points.end());
    out.points.insert(out.points.end(), begin, middle);
    out.rings.push_back(static_cast<int64_t>(out.points.size() / 2));
  }

  // A ring on the way: its next corner, and which of its bridges come next.
  struct Visit {
    int64_t ring, corner;
    size_t bridge;
  };

  void write_bridged(int64_t outer, Outlines& out) {
    const auto put = [&](int64_t x, int64_t y) {
      const size_t end = out.points.size();
      const bool fresh = static_cast<int64_t>(end / 2) == out.rings.back();
      if (fresh || out.points[end - 2] != x || out.points[end - 1] != y) out.points.insert(out.points.end(), {x, y});
    };
    std::vector<Visit> visits{{outer, 0, 0}};
    while (!visits.empty()) {
      Visit& now = visits.back();
      Ring& one = ring(now.ring);
      if (now.corner == 0 && now.bridge == 0) sort_bridges(one);
      const auto next_crack = [&] { return crack(ring(one.bridges[now.bridge]).bridge); };
      if (now.bridge < one.bridges.size() && next_crack().corner == now.corner - 1) {
        const int64_t hole = one.bridges[now.bridge++];
        put(crack(ring(hole).bridge).x, crack(ring(hole).bridge).y);
        visits.push_back({hole, 0, 0});
      } else if (now.corner < one.size()) {
        const int64_t i = (one.first + now.corner++) % one.size();
        put(one.x(i), one.y(i));
      } else {
        if (!one.outer) {
          put(one.x(one.first), one.y(one.first));
          put(crack(one.bridge).x, crack(one.bridge).y);
        }
        visits.pop_back();
      }
    }
    out.rings.push_back(static_cast<int64_t>(out.points.size() / 2));
  }

  // In the order in which the walk comes by; bridges leave from tops, which are walked to the right.
  void sort_bridges(Ring& one) {
    std::sort(one.bridges.begin(), one.bridges.end(), [&](int64_t a, int64_t b) {
      const Crack &p = crack(ring(a).bridge), &q = crack(ring(b).bridge);
      return std::pair(p.corner, p.x) < std::pair(q.corner, q.x);
    });
  }

  int64_t height_, touching_ = 0;
  std::vector<Crack> cracks_;
  std::vector<Ring> rings_;
  std::vector<Corner> corners_;
  std::vector<int64_t> walked_, seen_;
};

}  // namespace

void rle_to_polygons(const RleToPolygons& op, const Parallel& parallel) {
  const auto* pairs = reinterpret_cast<const std::pair<int64_t, int64_t>*>(op.masks.runs);
  std::atomic<int64_t> next{0};
  parallel(op.masks.count, 1, [&](int64_t, int64_t) {
    for (int64_t k; (k = next.fetch_add(1)) < op.masks.count;) {
      Tracer tracer(op.masks.sizes[2 * k]);
      tracer.trace(pairs + op.masks.offsets[k], op.masks.offsets[k + 1] - op.masks.offsets[k]);
      tracer.write(op.bridged, op.outlines[k]);
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
