// Areas and boxes of masks straight from their strings.
#include <algorithm>
#include <atomic>

#include "cpu/run_reader.h"
#include "evaluation.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// Rows and columns that runs have touched so far, in pixels, the far ones outside.
class Extent {
 public:
  explicit Extent(int64_t height) : height_(height), top_(height) {}

  void add(int64_t begin, int64_t end) {
    area_ += end - begin;
    if (begin - start_ >= height_) {
      // A division for each run would cost more than all the rest.
      const bool next = begin - start_ < 2 * height_;
      column_ = next ? column_ + 1 : begin / height_;
      start_ = column_ * height_;
    }
    left_ = left_ < 0 ? column_ : left_;
    const bool inside = end - start_ <= height_;
    top_ = inside ? std::min(top_, begin - start_) : 0;
    bottom_ = inside ? std::max(bottom_, end - start_) : height_;
    right_ = inside ? column_ + 1 : (end - 1) / height_ + 1;
  }
  double area() const { return static_cast<double>(area_); }
  void write(double* box) const {
    const bool any = area_ > 0;
    box[0] = any ? static_cast<double>(left_) : 0, box[1] = any ? static_cast<double>(top_) : 0;
    box[2] = any ? static_cast<double>(right_ - left_) : 0, box[3] = any ? static_cast<double>(bottom_ - top_) : 0;
  }

 private:
  int64_t height_, top_, bottom_ = 0, left_ = -1, right_ = 0, column_ = 0, start_ = 0, area_ = 0;
};

}  // namespace

void measure_masks(const MeasureMasks& op, const Parallel& parallel) {
  constexpr int64_t kPart = 64;
  std::atomic<int64_t> next{0};
  parallel((op.masks.count + kPart - 1) / kPart, 1, [&](int64_t, int64_t) {
    for (int64_t from; (from = kPart * next.fetch_add(1)) < op.masks.count;)
      for (int64_t k = from; k < std::min(from + kPart, op.masks.count); ++k) {
        const int64_t height = op.masks.sizes[2 * k];
        Extent extent(height);
        op.faults[k] = read_counts(op.masks.text + op.masks.offsets[k], op.masks.text + op.masks.offsets[k + 1],
                                   height * op.masks.sizes[2 * k + 1],
                                   [&](int64_t begin, int64_t end) { extent.add(begin, end); });
        op.areas[k] = extent.area();
        extent.write(op.boxes + 4 * k);
      }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
