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
    // The last letter's highest bit is the sign: -16 to 15 are one letter.
    for (; static_cast<uint64_t>(x + 16) > 31; x >>= 5) letters_[used_++] = static_cast<char>((x & 0x1f) + 0x20 + 48);
    letters_[used_++] = static_cast<char>((x & 0x1f) + 48);
    if (used_ > sizeof(letters_) - kLongest) flush();
  }
  bool empty() const { return written_ == 0; }
  std::string take() {
    flush();
    return std::move(text_);
  }

 private:
  static constexpr size_t kLongest = 14;  // letters of one count

  void flush() {
    text_.append(letters_, used_);
    used_ = 0;
  }

  int64_t written_ = 0, before_[2] = {0, 0};
  std::string text_;
  // A letter at a time is dear in a string.
  size_t used_ = 0;
  char letters_[512];
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
