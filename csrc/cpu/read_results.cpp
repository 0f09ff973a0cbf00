// A results file straight into columns.
#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>

#include "evaluation.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

class Reader {
 public:
  explicit Reader(const ReadResults& op)
      : columns_(*op.columns), text_(op.text), out_(op.text), at_(op.json), end_(op.json + op.size) {}

  // Whether all of it is plain.
  bool read() {
    columns_.offsets.push_back(0);
    if (!take('[')) return false;
    if (!take(']')) {
      do {
        if (!result()) return false;
      } while (take(','));
      if (!take(']')) return false;
    }
    blanks();
    return at_ == end_;
  }

 private:
  enum Key { kImage = 1, kClass = 2, kScore = 4, kBox = 8, kMask = 16 };

  bool result() {
    int seen = 0;
    if (!take('{') || !members([&](std::string_view key) {
          if (key == "image_id") return once(seen, kImage) && whole(columns_.images);
          if (key == "category_id") return once(seen, kClass) && whole(columns_.classes);
          if (key == "score") return once(seen, kScore) && real(columns_.scores);
          if (key == "bbox") return once(seen, kBox) && box();
          if (key == "segmentation") return once(seen, kMask) && mask();
          return pass();
        }))
      return false;
    const bool first = columns_.images.size() == 1;
    if (first) all_ = seen;
    return seen == all_ && (seen & 7) == 7;
  }

  // The rest of an object behind its brace; `member` reads what stands behind a key.
  template <class Member>
  bool members(Member&& member) {
    if (take('}')) return true;
    do {
      std::string_view key;
      if (!name(key) || !take(':') || !member(key)) return false;
    } while (take(','));
    return take('}');
  }

  static bool once(int& seen, int key) {
    const bool fresh = !(seen & key);
    seen |= key;
    return fresh;
  }

  bool box() {
    if (!take('[')) return false;
    for (int i = 0; i < 4; ++i)
      if ((i > 0 && !take(',')) || !real(columns_.boxes)) return false;
    return take(']');
  }

  bool mask() {
    int seen = 0;
    return take('{') && members([&](std::string_view key) {
             if (key == "counts") return once(seen, 1) && letters();
             if (key != "size") return pass();
             return once(seen, 2) && take('[') && whole(columns_.sizes) && take(',') && whole(columns_.sizes) &&
                    take(']');
           }) &&
           seen == 3;
  }

  // COCO's letters go as far as 'o', so a backslash is among them, and in JSON there are two of it.
  bool letters() {
    if (!take('"')) return false;
    for (const char* quote = find('"', end_); quote != end_;) {
      const char* const stop = std::min(quote, find('\\', quote));
      out_ = std::copy(at_, stop, out_);
      at_ = stop;
      if (stop == quote) break;
      if (end_ - stop < 2 || stop[1] != '\\') return false;
      *out_++ = '\\';
      at_ += 2;
      if (at_ > quote) quote = find('"', end_);
    }
    columns_.offsets.push_back(out_ - text_);
    return take('"');
  }

  // Where a letter comes next before `end`, or `end`.
  const char* find(char letter, const char* end) const {
    const void* const found = std::memchr(at_, letter, static_cast<size_t>(end - at_));
    return found == nullptr ? end : static_cast<const char*>(found);
  }

  bool name(std::string_view& key) {
    if (!take('"')) return false;
    const char* const begin = at_;
    if (!rest_of_text()) return false;
    key = {begin, static_cast<size_t>(at_ - 1 - begin)};
    return key.find('\\') == std::string_view::npos;
  }

  // Behind a quote: plain ASCII to the next one. What needs more thought is left to Python.
  bool rest_of_text() {
    while (at_ < end_) {
      const unsigned char letter = static_cast<unsigned char>(*at_++);
      if (letter == '"') return true;
      if (letter < 0x20 || letter >= 0x80) return false;
      if (letter == '\\' && (at_ == end_ || std::string_view("\"\\/bfnrt").find(*at_++) == std::string_view::npos))
        return false;
    }
    return false;
  }

  // Where a number as JSON writes them ends, or nullptr.
  const char* number() const {
    const char* at = at_;
    const auto digits = [&] {
      const char* const begin = at;
      while (at < end_ && *at >= '0' && *at <= '9') ++at;
      return at > begin;
    };
    if (at < end_ && *at == '-') ++at;
    if (at < end_ && *at == '0') ++at;
    else if (!digits()) return nullptr;
    if (at < end_ && *at == '.' && (++at, !digits())) return nullptr;
    if (at < end_ && (*at == 'e' || *at == 'E')) {
      if (++at < end_ && (*at == '+' || *at == '-')) ++at;
      if (!digits()) return nullptr;
    }
    return at;
  }

  template <class T>
  bool value(std::vector<T>& to) {
    blanks();
    const char* const end = number();
    T found = 0;
    if (end == nullptr) return false;
    const auto [after, error] = std::from_chars(at_, end, found);
    if (error != std::errc() || after != end) return false;  // of whole numbers, one with a point too
    at_ = end;
    to.push_back(found);
    return true;
  }
  bool whole(std::vector<int64_t>& to) { return value(to); }
  bool real(std::vector<double>& to) { return value(to); }

  // Over a value that nobody asks for.
  bool pass(int depth = 0) {
    constexpr int kDeepest = 32;
    if (depth > kDeepest) return false;
    blanks();
    if (at_ == end_) return false;
    if (take('"')) return rest_of_text();
    if (take('{')) return members([&](std::string_view) { return pass(depth + 1); });
    if (take('[')) {
      if (take(']')) return true;
      do
        if (!pass(depth + 1)) return false;
      while (take(','));
      return take(']');
    }
    for (const std::string_view word : {"true", "false", "null"})
      if (std::string_view(at_, static_cast<size_t>(end_ - at_)).starts_with(word)) {
        at_ += word.size();
        return true;
      }
    const char* const end = number();
    if (end == nullptr) return false;
    at_ = end;
    return true;
  }

  void blanks() {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
  }
  bool take(char letter) {
    blanks();
    if (at_ == end_ || *at_ != letter) return false;
    ++at_;
    return true;
  }

  ResultColumns& columns_;
  char *text_, *out_;
  const char *at_, *end_;
  int all_ = 0;
};

}  // namespace

void read_results(const ReadResults& op, const Parallel&) {
  if (!Reader(op).read()) *op.columns = {};
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
