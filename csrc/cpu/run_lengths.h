// Runs of ones and COCO's string for them.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace htc::cpu::HTC_INSTRUCTION_SET {

// Runs of ones, in column-major order over the image.
struct Runs {
  std::vector<std::pair<int64_t, int64_t>> ones;

  void add(int64_t begin, int64_t end) {
    if (!ones.empty() && ones.back().second == begin) ones.back().second = end;
    else ones.push_back({begin, end});
  }
};

// Writes COCO's compressed counts one after another: each minus the one two before it, five bits a character.
class CountWriter {
 public:
  void add(int64_t count) {
    int64_t x = written_ > 2 ? count - before_[written_ & 1] : count;
    before_[written_++ & 1] = count;
    for (bool more = true; more;) {
      const int64_t digit = x & 0x1f;
      x >>= 5;
      more = digit & 0x10 ? x != -1 : x != 0;
      text_.push_back(static_cast<char>((more ? digit | 0x20 : digit) + 48));
    }
  }
  bool empty() const { return written_ == 0; }
  std::string take() { return std::move(text_); }

 private:
  int64_t written_ = 0, before_[2] = {0, 0};
  std::string text_;
};

// `ones` holds pairs begin, end; any range of them.
template <class Pairs>
std::string compress(const Pairs& ones, int64_t pixels) {
  CountWriter counts;
  int64_t at = 0;
  for (const auto& [begin, end] : ones) {
    counts.add(begin - at);
    counts.add(end - begin);
    at = end;
  }
  if (at < pixels || counts.empty()) counts.add(pixels - at);
  return counts.take();
}

inline std::string compress(const Runs& runs, int64_t pixels) { return compress(runs.ones, pixels); }

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
