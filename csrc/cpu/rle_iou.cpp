// IoU of all pairs of run-length masks: boxes first, runs only where boxes meet.
#include <atomic>
#include <cstring>

#include "cpu/run_overlap.h"
#include "masks.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

// The boxes of b side by side, so that one of a meets many at once.
struct Boxes {
  std::vector<int32_t> x1, y1, x2, y2;

  explicit Boxes(const std::vector<MaskShape>& shapes) {
    const size_t count = shapes.size();
    x1.resize(count), y1.resize(count), x2.resize(count), y2.resize(count);
    for (size_t k = 0; k < count; ++k) {
      const PixelBox& box = shapes[k].box;
      x1[k] = box.x1, y1[k] = box.y1, x2[k] = box.x2, y2[k] = box.y2;
    }
  }
};

// Whose boxes share a pixel with this one.
class Meeting {
 public:
  explicit Meeting(size_t count) : flags_((count + 7) / 8 * 8) {}

  const std::vector<size_t>& with(const PixelBox& box, const Boxes& boxes) {
    const int32_t *x1 = boxes.x1.data(), *y1 = boxes.y1.data(), *x2 = boxes.x2.data(), *y2 = boxes.y2.data();
    uint8_t* __restrict flags = flags_.data();
    const auto [left, top, right, bottom] = box;
    for (size_t k = 0; k < boxes.x1.size(); ++k)
      flags[k] = (x1[k] < right) & (left < x2[k]) & (y1[k] < bottom) & (top < y2[k]);
    who_.clear();
    for (size_t from = 0; from < flags_.size(); from += 8) {
      uint64_t eight;
      std::memcpy(&eight, &flags_[from], 8);
      if (eight == 0) continue;  // as most are
      for (size_t k = from; k < from + 8; ++k)
        if (flags_[k]) who_.push_back(k);
    }
    return who_;
  }

 private:
  std::vector<uint8_t> flags_;
  std::vector<size_t> who_;
};

}  // namespace

void rle_iou(const RleIou& op, const Parallel& parallel) {
  const std::vector<MaskShape> a = shapes_of(op.a, parallel), b = shapes_of(op.b, parallel);
  const Boxes boxes(b);
  std::atomic<int64_t> next{0};
  // Whoever is free takes the next row; a thread is not worth waking for a few pairs.
  parallel(op.a.count, 256 / std::max<int64_t>(1, op.b.count) + 1, [&](int64_t, int64_t) {
    Meeting meeting(b.size());
    for (int64_t i; (i = next.fetch_add(1)) < op.a.count;) {
      const MaskShape& one = a[static_cast<size_t>(i)];
      double* out = op.out + i * op.b.count;
      std::fill(out, out + op.b.count, 0.0);
      for (const size_t k : meeting.with(one.box, boxes)) {
        const int64_t shared = shared_pixels(one, b[k]);
        const bool crowd = op.crowd != nullptr && op.crowd[k] != 0;
        out[k] = iou_of(shared, crowd ? one.area : one.area + b[k].area - shared);
      }
    }
  });
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
