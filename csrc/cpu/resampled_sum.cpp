// Maps of different sizes resampled and summed in one pass over the result; its gradient in one pass over the sum's.
#include <algorithm>
#include <vector>

#include "cpu/simd.h"
#include "ops.h"

namespace htc::cpu::HTC_INSTRUCTION_SET {
namespace {

typedef int32_t Mask __attribute__((vector_size(kWidth * 4)));
constexpr int kBlock = 4;  // vectors of channels whose sums stay in registers

// Where a pixel of the result lies on a map, along one axis.
struct Tap {
  int64_t low, high;  // alike where high would weigh nothing: an infinity there does not matter
  float weight;       // of high
};

std::vector<Tap> taps(int64_t size, int64_t out_size) {
  const float step = out_size > 1 ? static_cast<float>(size - 1) / static_cast<float>(out_size - 1) : 0.0f;
  std::vector<Tap> found(static_cast<size_t>(out_size));
  for (int64_t i = 0; i < out_size; ++i) {
    const float at = static_cast<float>(i) * step;
    const int64_t low = std::min(static_cast<int64_t>(at), size - 1);
    const float weight = low + 1 < size ? at - static_cast<float>(low) : 0.0f;
    found[static_cast<size_t>(i)] = {low, low + (weight > 0), weight};
  }
  return found;
}

struct Level {
  bool same;  // of the result's size: not resampled
  std::vector<Tap> rows, columns;
};

std::vector<Level> levels_of(const ResampledSum& op) {
  std::vector<Level> found;
  for (int l = 0; l < op.levels; ++l)
    found.push_back({op.heights[l] == op.height && op.widths[l] == op.width, taps(op.heights[l], op.height),
                     taps(op.widths[l], op.width)});
  return found;
}

// The first `count` of a vector; a whole one as a rule.
template <class T>
inline Vec load_some(const T* p, int64_t count) {
  if (count >= kWidth) return load(p);
  T some[kWidth] = {};
  std::copy_n(p, count, some);
  return load(some);
}

template <class T>
inline void store_some(T* p, Vec value, int64_t count) {
  if (count >= kWidth) return store(p, value);
  T some[kWidth];
  store(some, value);
  std::copy_n(some, count, p);
}

inline Bits load_bits(const uint8_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Bits>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<Bits>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(*reinterpret_cast<const Bytes*>(p), Bits);
#endif
}

inline Bits load_bits(const uint8_t* p, int64_t count) {
  if (count >= kWidth) return load_bits(p);
  uint8_t some[kWidth] = {};
  std::copy_n(p, count, some);
  return load_bits(some);
}

inline void store_bits(uint8_t* p, Bits bits, int64_t count) {
  uint8_t some[kWidth];
  store_bytes(count >= kWidth ? p : some, bits);
  if (count < kWidth) std::copy_n(some, count, p);
}

// Four corners of one map around one pixel of the result, and what they weigh.
template <class T>
struct Corners {
  const T* at[4];
  Vec weights[4];
  int count;  // 1: the pixel itself
};

template <class T>
Corners<T> corners(const ResampledSum& op, int l, const Level& level, int64_t n, int64_t y, int64_t x) {
  const T* image = static_cast<const T*>(op.maps[l]) + n * op.heights[l] * op.widths[l] * op.channels;
  if (level.same) return {{image + (y * op.width + x) * op.channels}, {}, 1};
  const Tap &row = level.rows[static_cast<size_t>(y)], &column = level.columns[static_cast<size_t>(x)];
  const T *top = image + row.low * op.widths[l] * op.channels, *bottom = image + row.high * op.widths[l] * op.channels;
  const int64_t left = column.low * op.channels, right = column.high * op.channels;
  const float down = row.weight, across = column.weight;
  return {{top + left, top + right, bottom + left, bottom + right},
          {spread((1 - down) * (1 - across)), spread((1 - down) * across), spread(down * (1 - across)),
           spread(down * across)},
          4};
}

template <class T>
inline Vec sample(const Corners<T>& from, int64_t c, int64_t count) {
  const Vec first = load_some(from.at[0] + c, count);
  if (from.count == 1) return first;
  Vec sum = first * from.weights[0];
  for (int i = 1; i < 4; ++i) sum = fma(load_some(from.at[i] + c, count), from.weights[i], sum);
  return sum;
}

template <class T>
void sum_line(const ResampledSum& op, const std::vector<Level>& levels, int64_t n, int64_t y) {
  Corners<T> from[8];
  for (int64_t x = 0; x < op.width; ++x) {
    const int64_t place = ((n * op.height + y) * op.width + x) * op.channels;
    for (int l = 0; l < op.levels; ++l) from[l] = corners<T>(op, l, levels[static_cast<size_t>(l)], n, y, x);
    for (int64_t c = 0; c < op.channels; c += kWidth) {
      const int64_t count = op.channels - c;
      Vec total = {};
      Bits open = {};
      for (int l = 0; l < op.levels; ++l) {
        const Vec value = sample(from[l], c, count);
        total += op.relu ? larger(Vec{}, value) : value;  // in this order NaN stays
        open |= reinterpret_cast<Bits>(~Mask(value <= Vec{})) & (uint32_t{1} << l);
      }
      store_some(static_cast<T*>(op.out) + place + c, total, count);
      if (op.open) store_bits(op.open + place + c, open, count);
    }
  }
}

// The sum's gradient at one pixel, as far as map `bit` was open there.
template <class T>
inline Vec gated(const T* grad, const uint8_t* open, uint32_t bit, int64_t count) {
  const Vec value = load_some(grad, count);
  if (!open) return value;
  const Bits closed = reinterpret_cast<Bits>((load_bits(open, count) & bit) == 0);
  return reinterpret_cast<Vec>(reinterpret_cast<Bits>(value) & ~closed);
}

struct Sum {
  Vec parts[kBlock];
};

// The gradient of V vectors of channels of one map, by lines of the result's: each touches two lines of the map, which
// are summed here until no later line reaches them.
template <class T, int V>
class Gradient {
 public:
  Gradient(const ResampledSum& op, int l, const Level& level, int64_t n, int64_t first)
      : op_(op),
        level_(level),
        out_(static_cast<T*>(op.maps[l]) + n * op.heights[l] * op.widths[l] * op.channels + first),
        height_(op.heights[l]),
        width_(op.widths[l]),
        count_(op.channels - first),
        bit_(uint32_t{1} << l),
        low_(level.same ? 0 : static_cast<size_t>(width_)),
        high_(low_.size()) {}

  void line(int64_t y, const T* grad, const uint8_t* open) {
    if (level_.same) return copy(y, grad, open);
    const Tap row = level_.rows[static_cast<size_t>(y)];
    while (row_ < row.low) write();
    const Tap* const taps = level_.columns.data();
    const int64_t width = op_.width, step = op_.channels, columns = width_;
    const uint32_t bit = bit_;
    Vec here[V] = {}, next[V] = {};
    int64_t column = 0;
    for (int64_t x = 0; x < width; ++x, grad += step, open += open ? step : 0) {
      const int64_t low = taps[x].low;
      const Vec near = spread(1 - taps[x].weight), far = spread(taps[x].weight);
      while (column < low) flush(column++, row.weight, here, next);
      for (int v = 0; v < V; ++v) {
        const Vec value = gated(grad + v * kWidth, open ? open + v * kWidth : nullptr, bit, left(v));
        here[v] = fma(value, near, here[v]);
        next[v] = fma(value, far, next[v]);
      }
    }
    for (int i = 0; i < 2 && column < columns; ++i) flush(column++, row.weight, here, next);
  }

  void end() {
    while (!level_.same && row_ < height_) write();
  }

 private:
  void copy(int64_t y, const T* grad, const uint8_t* open) const {
    T* line = out_ + y * width_ * op_.channels;
    const int64_t width = width_, step = op_.channels;
    const uint32_t bit = bit_;
    for (int64_t x = 0; x < width; ++x, line += step, grad += step, open += open ? step : 0)
      for (int v = 0; v < V; ++v)
        store_some(line + v * kWidth, gated(grad + v * kWidth, open ? open + v * kWidth : nullptr, bit, left(v)),
                   left(v));
  }

  // Channels there are from vector v on: whole ones, known to the compiler, but for the last.
  int64_t left(int v) const { return V > 1 ? kWidth : count_ - v * kWidth; }

  // A finished column's sum goes to both lines.
  void flush(int64_t column, float down, Vec (&here)[V], Vec (&next)[V]) {
    Sum &low = low_[static_cast<size_t>(column)], &high = high_[static_cast<size_t>(column)];
    for (int v = 0; v < V; ++v) {
      low.parts[v] = fma(here[v], 1 - down, low.parts[v]);
      high.parts[v] = fma(here[v], down, high.parts[v]);
      here[v] = next[v];
      next[v] = Vec{};
    }
  }

  void write() {
    T* line = out_ + row_++ * width_ * op_.channels;
    for (int64_t x = 0; x < width_; ++x)
      for (int v = 0; v < V; ++v)
        store_some(line + x * op_.channels + v * kWidth, low_[static_cast<size_t>(x)].parts[v], left(v));
    low_.swap(high_);
    std::fill(high_.begin(), high_.end(), Sum{});
  }

  const ResampledSum& op_;
  const Level& level_;
  T* out_;
  int64_t height_, width_, count_;
  uint32_t bit_;
  int64_t row_ = 0;              // that low_ is the sum of; high_ is of the next
  std::vector<Sum> low_, high_;  // [width]
};

template <class T, int V>
void gradients(const ResampledSum& op, const std::vector<Level>& levels, int64_t n, int64_t first) {
  std::vector<Gradient<T, V>> found;
  for (int l = 0; l < op.levels; ++l) found.emplace_back(op, l, levels[static_cast<size_t>(l)], n, first);
  for (int64_t y = 0; y < op.height; ++y) {
    const int64_t place = (n * op.height + y) * op.width * op.channels + first;
    for (auto& one : found) one.line(y, static_cast<const T*>(op.out) + place, op.open ? op.open + place : nullptr);
  }
  for (auto& one : found) one.end();
}

template <class T>
void forward(const ResampledSum& op, const Parallel& parallel) {
  const std::vector<Level> levels = levels_of(op);
  parallel(op.images * op.height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum_line<T>(op, levels, i / op.height, i % op.height);
  });
}

// Threads share out channels, so that no two write to one number, and the order of sums is always the same.
template <class T>
void backward(const ResampledSum& op, const Parallel& parallel) {
  const std::vector<Level> levels = levels_of(op);
  const int64_t vectors = (op.channels + kWidth - 1) / kWidth;
  parallel(op.images * vectors, 1, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t n = begin / vectors, first = begin % vectors * kWidth;
      const bool whole = begin + kBlock <= end && first + kBlock * kWidth <= op.channels;
      if (whole) gradients<T, kBlock>(op, levels, n, first);
      else gradients<T, 1>(op, levels, n, first);
      begin += whole ? kBlock : 1;
    }
  });
}

}  // namespace

void resampled_sum(const ResampledSum& op, const Parallel& parallel) {
  switch (op.dtype) {
    case DType::bf16: return forward<bf16>(op, parallel);
    case DType::f16: return forward<f16>(op, parallel);
    default: return forward<float>(op, parallel);
  }
}

void resampled_sum_backward(const ResampledSum& op, const Parallel& parallel) {
  switch (op.dtype) {
    case DType::bf16: return backward<bf16>(op, parallel);
    case DType::f16: return backward<f16>(op, parallel);
    default: return backward<float>(op, parallel);
  }
}

}  // namespace htc::cpu::HTC_INSTRUCTION_SET
