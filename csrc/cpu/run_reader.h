// COCO's strings, read run by run.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

namespace htc::cpu::HTC_INSTRUCTION_SET {

enum Fault : uint8_t { kNone, kLetter, kNegative, kLength };

// Reads one string: number by number, or the numbers of eight letters at once.
template <class Take>
class RunReader {
 public:
  RunReader(const char* text, const char* end, int64_t pixels, Take& take)
      : text_(text), end_(end), pixels_(pixels), take_(take) {}

  Fault read() {
    while (text_ < end_) {
      const Fault fault = number_ > 2 && end_ - text_ >= 8 ? eight() : one();
      if (fault != kNone) return fault;
    }
    return at_ == pixels_ ? kNone : kLength;
  }

 private:
  Fault one() {
    int64_t x = 0, digit = 0;
    int digits = 0;
    do {
      if (text_ == end_ || digits == kMostDigits) return kLetter;
      digit = static_cast<int64_t>(*text_++) - 48;
      if (digit < 0 || digit > 63) return kLetter;
      x |= (digit & 0x1f) << (5 * digits++);
    } while (digit & 0x20);
    if (digit & 0x10) x |= -(int64_t{1} << (5 * digits));
    if (number_ <= 2) older_ = 0;
    return take(x);
  }

  // Bit 5 of a letter says that its number goes on; the other five are pushed together, 40 in all.
  Fault eight() {
    uint64_t letters;
    std::memcpy(&letters, text_, 8);
    const uint64_t lifted = letters + every(0x10);
    if ((letters & every(0x80)) != 0 || (lifted & every(0xc0)) != every(0x40)) return one();
    uint64_t ends = ~lifted & every(0x20);
    if (ends == 0) return one();
    uint64_t bits = lifted & every(0x1f);
    bits = (bits & 0x001f001f001f001f) | (bits & 0x1f001f001f001f00) >> 3;
    bits = (bits & 0x000003ff000003ff) | (bits & 0x03ff000003ff0000) >> 6;
    bits = (bits & 0xfffff) | (bits & 0x000fffff00000000) >> 12;
    int first = 0;
    do {
      const int next = std::countr_zero(ends) / 8 + 1;
      const Fault fault = take(static_cast<int64_t>(bits << (64 - 5 * next)) >> (64 - 5 * (next - first)));
      if (fault != kNone) return fault;
      first = next, ends &= ends - 1;
    } while (ends != 0);
    text_ += first;
    return kNone;
  }

  // Numbers are told by what they are more than the one before the last.
  Fault take(int64_t more) {
    const int64_t count = more + older_;
    older_ = newer_, newer_ = count;
    if (count < 0) return kNegative;
    if (count > pixels_ - at_) return kLength;
    if (number_++ & 1 && count > 0) take_(at_, at_ + count);
    at_ += count;
    return kNone;
  }

  static constexpr int kMostDigits = 12;  // of a count: 60 bits
  static constexpr uint64_t every(uint64_t byte) { return byte * 0x0101010101010101; }

  const char *text_, *end_;
  int64_t pixels_, at_ = 0, number_ = 0, older_ = 0, newer_ = 0;
  Take& take_;
};

// Gives `take` every run of ones [begin, end) that is not empty; two may touch.
template <class Take>
Fault read_counts(const char* text, const char* end, int64_t pixels, Take&& take) {
  return RunReader(text, end, pixels, take).read();
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
