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

// COCO's compressed counts: each minus the one two before it, five bits a character.
inline std::string compress(const Runs& runs, int64_t pixels) {
  std::vector<int64_t> counts;
  int64_t at = 0;
  for (const auto& [begin, end] : runs.ones) {
    counts.push_back(begin - at);
    counts.push_back(end - begin);
    at = end;
  }
  if (at < pixels || counts.empty()) counts.push_back(pixels - at);
  std::string out;
  for (size_t i = 0; i < counts.size(); ++i) {
    int64_t x = i > 2 ? counts[i] - counts[i - 2] : counts[i];
    for (bool more = true; more;) {
      int64_t digit = x & 0x1f;
      x >>= 5;
      more = digit & 0x10 ? x != -1 : x != 0;
      out.push_back(static_cast<char>((more ? digit | 0x20 : digit) + 48));
    }
  }
  return out;
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
