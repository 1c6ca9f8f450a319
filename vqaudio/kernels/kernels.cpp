// Autoregressive WaveNet steps and nearest codes on a CPU.
//
// One file, compiled once for each instruction set (setup.py); library.py loads the best that the machine runs.
// Plain C interface at the end. The callers in Python have checked every argument.
//
// In this order: vectors, precisions, matrices, sampling, WaveNet (its packed weights), two threads, a group of streams,
// groups of streams, nearest codes, gates in training, limits of a machine, the C interface.
//
// Letters: B streams, T steps, N frames, L layers, R residual channels, S skip channels, Q classes, H hidden
// channels of the conditioning, D width of a code.
//
// Every output of a matrix product is one accumulator that adds its inputs in their order, whatever the blocking.
// A stream therefore has the same samples, bit for bit, alone or in a batch, on one thread or two, whole or in pieces.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

// ---------------------------------------------------------------------------------------------------- vectors

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;  // SSE2, NEON, or what the compiler generates for it
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int ACCUMULATORS = 16;  // of 32 registers
constexpr int MAX_COLUMNS = 8;    // vectors that one pass over a matrix multiplies
#else
constexpr int ACCUMULATORS = 8;  // of 16 registers
constexpr int MAX_COLUMNS = 4;
#endif
constexpr int LANES = VECTOR_BYTES / 4;

using Floats = float __attribute__((vector_size(VECTOR_BYTES)));
using Ints = int32_t __attribute__((vector_size(VECTOR_BYTES)));

template <class V>
inline V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class V>
inline void store(void* to, V value) {
  std::memcpy(to, &value, sizeof value);
}
inline Floats broadcast(float value) { return value - Floats{}; }
template <class To, class From>
inline To reinterpret(From value) {
  static_assert(sizeof(To) == sizeof(From));
  return load<To>(&value);
}

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int power_of_two(int least) {  // rings of such a length need no division
  int power = 1;
  while (power < least) power *= 2;
  return power;
}

// Returns b where either is NaN: clamp and rectify must pass a NaN on to the logits, which are checked.
inline Floats greater(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
inline Floats lesser(Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}
inline Floats clamp(Floats x, float low, float high) { return lesser(broadcast(high), greater(broadcast(low), x)); }

inline Floats reciprocal(Floats x) {
#if defined(__AVX512F__)  // an estimate of 14 bits and one step of Newton's method are faster than a division
  const Floats estimate = _mm512_rcp14_ps(x);
  return estimate * (2.0f - x * estimate);
#else
  return 1.0f / x;
#endif
}

// e^x with a relative error of 2e-7, for x in [-87, 88], which the caller ensures. 2^x = 2^n 2^f, the latter by a
// polynomial on [-1/2, 1/2].
inline Floats exponential(Floats x) {
  const Floats t = x * 1.44269504f, magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats n = (t + magic) - magic, f = t - n;
  Floats p = broadcast(1.5403530e-4f);
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, n);
#else
  return p * reinterpret<Floats>((__builtin_convertvector(n, Ints) + 127) << 23);
#endif
}

// (2 n) -> (n): tanh of the first half times the sigmoid of the second, with one division (arXiv 1609.03499, eq. 2)
inline void gate(const float* y, int n, float* z) {
  for (int i = 0; i < n; i += LANES) {
    const Floats a = exponential(clamp(load<Floats>(y + i), -15.0f, 15.0f) * -2.0f);
    const Floats b = exponential(clamp(load<Floats>(y + n + i), -40.0f, 40.0f) * -1.0f);
    store(z + i, (1.0f - a) * reciprocal((1.0f + a) * (1.0f + b)));
  }
}

inline void rectify(float* x, int n) {
  for (int i = 0; i < n; i += LANES) {
    store(x + i, greater(Floats{}, load<Floats>(x + i)));
  }
}

// ------------------------------------------------------------------------------------------------- precisions
//
// A precision defines how weights are laid out in memory and how a product with them is formed:
//   Weight, GROUP   weights of GROUP successive inputs lie together, in 32 bits
//   Input           what a vector is turned into once (`convert`) before it is multiplied; LANES values at a time
//   Loaded, Sum     a vector register of weights, unpacked; the accumulator
//   add             one register of weights times GROUP inputs
//   SCALED          whether rows of weights carry a factor; SCALED_INPUT: vectors of inputs too

struct Float32 {
  using Weight = float;
  using Input = float;
  using Loaded = Floats;
  using Sum = Floats;
  static constexpr int GROUP = 1;
  static constexpr bool SCALED = false, SCALED_INPUT = false;
  static Weight pack(float value, float) { return value; }
  static Loaded unpack(const Weight* weights) { return load<Floats>(weights); }
  static Sum add(Sum sum, Loaded weights, const Input* x) { return sum + weights * *x; }
  static void convert(const float* x, int n, Input* out) { std::memcpy(out, x, n * sizeof(float)); }
};

inline uint16_t to_bfloat16(float value) {  // rounds to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

struct Bfloat16 {
  using Weight = uint16_t;
  using Sum = Floats;
  static constexpr int GROUP = 2;
  static constexpr bool SCALED = false, SCALED_INPUT = false;
  static Weight pack(float value, float) { return to_bfloat16(value); }
#if defined(__AVX512BF16__)
  using Input = uint16_t;
  using Loaded = __m512i;
  static Loaded unpack(const Weight* weights) { return _mm512_loadu_si512(weights); }
  static Sum add(Sum sum, Loaded weights, const Input* x) {
    int32_t pair;
    std::memcpy(&pair, x, 4);
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(pair));
  }
  static void convert(const float* x, int n, Input* out) {
    for (int i = 0; i < n; i += LANES) {
      store(out + i, (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
    }
  }
#else  // only weights are bfloat16
  using Input = float;
  struct Loaded {
    Floats even, odd;
  };
  static Loaded unpack(const Weight* weights) {
    const Ints pairs = load<Ints>(weights);
    return {reinterpret<Floats>(pairs << 16), reinterpret<Floats>(pairs & static_cast<int32_t>(0xffff0000u))};
  }
  static Sum add(Sum sum, Loaded weights, const Input* x) {
    sum = sum + weights.even * x[0];
    return sum + weights.odd * x[1];
  }
  static void convert(const float* x, int n, Input* out) { std::memcpy(out, x, n * sizeof(float)); }
#endif
};

// One factor for each row of weights; with VNNI one for each vector of inputs too.
struct Int8 {
  using Weight = int8_t;
  static constexpr int GROUP = 4;
  static constexpr bool SCALED = true;
  static Weight pack(float value, float scale) { return static_cast<Weight>(std::lrintf(value / scale)); }
#if defined(__AVX512VNNI__)
  using Input = uint8_t;  // value / scale + 128: the instruction multiplies unsigned with signed
  using Loaded = __m512i;
  using Sum = Ints;
  static constexpr bool SCALED_INPUT = true;
  static Loaded unpack(const Weight* weights) { return _mm512_loadu_si512(weights); }
  static Sum add(Sum sum, Loaded weights, const Input* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four), weights);
  }
  static void convert(const float* x, int n, Input* out) {
    // maximum of the absolute values by their bits as integers: the order is the same, and NaN comes last
    __m512i largest = _mm512_castps_si512(_mm512_set1_ps(1e-12f));
    for (int i = 0; i < n; i += LANES) {
      largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x + i))));
    }
    const int32_t bits = _mm512_reduce_max_epi32(largest);
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    scale /= 127.0f;
    const __m512 factor = _mm512_set1_ps(1.0f / scale);
    for (int i = 0; i < n; i += LANES) {
      const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), factor));
      store(out + i, _mm512_cvtusepi32_epi8(_mm512_add_epi32(whole, _mm512_set1_epi32(128))));
    }
    std::memcpy(out + n, &scale, sizeof scale);
  }
#else  // only weights are int8
  using Input = float;
  struct Loaded {
    Floats of[4];
  };
  using Sum = Floats;
  static constexpr bool SCALED_INPUT = false;
  static Loaded unpack(const Weight* weights) {
    const Ints fours = load<Ints>(weights);
    return {{__builtin_convertvector((fours << 24) >> 24, Floats), __builtin_convertvector((fours << 16) >> 24, Floats),
             __builtin_convertvector((fours << 8) >> 24, Floats), __builtin_convertvector(fours >> 24, Floats)}};
  }
  static Sum add(Sum sum, Loaded weights, const Input* x) {
    for (int i = 0; i < 4; i++) sum = sum + weights.of[i] * x[i];
    return sum;
  }
  static void convert(const float* x, int n, Input* out) { std::memcpy(out, x, n * sizeof(float)); }
#endif
};

template <class P>
constexpr int input_bytes(int n) {  // of a converted vector of n values, n a multiple of LANES
  const int bytes = n * static_cast<int>(sizeof(typename P::Input));
  return P::SCALED_INPUT ? round_up(bytes + 4, VECTOR_BYTES) : bytes;  // unpadded: the layers of a stream are contiguous
}

// --------------------------------------------------------------------------------------------------- matrices

// Weights are stored in panels of 1, 2, 4 or 8 vectors of rows: [panel][input group][row][input of the group].
struct Matrix {
  const uint8_t* weights = nullptr;
  const float* scale = nullptr;         // of each row (Int8)
  const int32_t* correction = nullptr;  // -128 times the sum of each row (Int8 with unsigned inputs)
  int vectors = 0;                      // rows / LANES
  int groups = 0;                       // inputs / P::GROUP, counted from `begin`
  int begin = 0;
  int stored = 0;  // groups in memory
  int panel = 1;   // vectors of rows in a panel; the last one may be narrower
};

// Memory for all weights of a net, in the order in which a step reads them.
class Arena {
 public:
  ~Arena() {
    for (void* block : blocks_) ::operator delete[](block, std::align_val_t{ALIGNMENT});
  }
  template <class Value>
  Value* take(size_t count) {
    const size_t bytes = (count * sizeof(Value) + 63) / 64 * 64;
    if (bytes > left_) grow(std::max(bytes, BLOCK));
    void* here = next_;
    next_ += bytes;
    left_ -= bytes;
    return static_cast<Value*>(std::memset(here, 0, bytes));
  }

 private:
  static constexpr size_t ALIGNMENT = size_t{1} << 21, BLOCK = size_t{4} << 20;  // huge pages
  void grow(size_t bytes) {
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    blocks_.push_back(nullptr);
    blocks_.back() = ::operator new[](bytes, std::align_val_t{ALIGNMENT});
#if defined(__linux__)
    madvise(blocks_.back(), bytes, MADV_HUGEPAGE);
#endif
    next_ = static_cast<uint8_t*>(blocks_.back());
    left_ = bytes;
  }
  std::vector<void*> blocks_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
};

template <class Value>
class Buffer {  // zeros, aligned to cache lines
 public:
  explicit Buffer(size_t count) : values_(new (std::align_val_t{64}) Value[count]()) {}
  Value* get() const { return values_.get(); }

 private:
  struct Free {
    void operator()(Value* values) const { ::operator delete[](values, std::align_val_t{64}); }
  };
  std::unique_ptr<Value[], Free> values_;
};

// Vectors of rows that a product with this number of columns computes together.
constexpr int tile_rows(int columns) {
  const int most = ACCUMULATORS / std::min(columns, MAX_COLUMNS);
  return most >= 8 ? 8 : most >= 4 ? 4 : 2;
}

// Row r, input i of the matrix is weight(r, i); rows beyond `rows` (up to a multiple of LANES) are 0.
// Panels have the width that suits a product with this number of columns.
template <class P, class Weight>
Matrix pack(Arena& arena, int rows, int inputs, int columns, Weight weight) {
  Matrix m;
  m.panel = tile_rows(columns);
  m.vectors = round_up(rows, LANES) / LANES;
  m.groups = m.stored = round_up(inputs, P::GROUP) / P::GROUP;
  auto* weights = arena.take<typename P::Weight>(size_t(m.vectors) * LANES * m.groups * P::GROUP);
  auto* scale = P::SCALED ? arena.take<float>(size_t(m.vectors) * LANES) : nullptr;
  auto* correction = P::SCALED_INPUT ? arena.take<int32_t>(size_t(m.vectors) * LANES) : nullptr;
  for (int r = 0; r < rows; r++) {
    float row_scale = 1.0f;
    if constexpr (P::SCALED) {
      float largest = 1e-12f;
      for (int i = 0; i < inputs; i++) largest = std::max(largest, std::fabs(weight(r, i)));
      scale[r] = row_scale = largest / 127.0f;
    }
    const int first = r / LANES / m.panel * m.panel, width = std::min(m.panel, m.vectors - first) * LANES;
    auto* panel = weights + size_t(first) * LANES * m.groups * P::GROUP;
    for (int i = 0; i < inputs; i++) {
      const auto packed = P::pack(weight(r, i), row_scale);
      panel[(size_t(i / P::GROUP) * width + r - first * LANES) * P::GROUP + i % P::GROUP] = packed;
      if constexpr (P::SCALED_INPUT) correction[r] -= 128 * packed;
    }
  }
  m.weights = reinterpret_cast<const uint8_t*>(weights);
  m.scale = scale;
  m.correction = correction;
  return m;
}

// sums[row vector][column] += weights * x[column], over all groups; `stride` bytes between groups of weights
template <class P, int ROWS, int COLUMNS>
inline __attribute__((always_inline)) void accumulate(typename P::Sum (&sums)[ROWS][COLUMNS], const uint8_t* weights,
                                                      size_t stride, int groups, const uint8_t* const* x) {
  const typename P::Input* inputs[COLUMNS];
#pragma GCC unroll 8
  for (int c = 0; c < COLUMNS; c++) inputs[c] = reinterpret_cast<const typename P::Input*>(x[c]);
  for (int g = 0; g < groups; g++, weights += stride) {
    typename P::Loaded loaded[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
      loaded[r] = P::unpack(reinterpret_cast<const typename P::Weight*>(weights + size_t(r) * VECTOR_BYTES));
    }
#pragma GCC unroll 8
    for (int c = 0; c < COLUMNS; c++) {
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++) sums[r][c] = P::add(sums[r][c], loaded[r], inputs[c] + g * P::GROUP);
    }
  }
}

// One of the products that are added up; x[column] are its inputs.
struct Part {
  const Matrix* matrix;
  const uint8_t* const* x;
};

// to[column] = from[column] + the sum of all parts, for ROWS vectors of rows beginning at `first` in a panel
template <class P, int ROWS, int COLUMNS>
void multiply_tile(const Part* parts, int count, int column, int panel, int width, int first, const float* const* from,
                   float* const* to) {
  typename P::Sum sums[ROWS][COLUMNS];
  if constexpr (!P::SCALED) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 8
      for (int c = 0; c < COLUMNS; c++) sums[r][c] = load<Floats>(from[c] + (first + r) * LANES);
    }
  }
  for (int part = 0; part < count; part++, from = to) {
    const Matrix& m = *parts[part].matrix;
    const uint8_t* const* x = parts[part].x + column;
    const size_t stride = size_t(width) * VECTOR_BYTES;
    const uint8_t* weights =
        m.weights + size_t(panel) * m.stored * VECTOR_BYTES + m.begin * stride + size_t(first - panel) * VECTOR_BYTES;
    if constexpr (P::SCALED) {
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < COLUMNS; c++) {
          if constexpr (P::SCALED_INPUT) {
            sums[r][c] = load<Ints>(m.correction + (first + r) * LANES);
          } else {
            sums[r][c] = Floats{};
          }
        }
      }
    }
    accumulate<P, ROWS, COLUMNS>(sums, weights, stride, m.groups, x);
    if constexpr (P::SCALED) {
#pragma GCC unroll 8
      for (int c = 0; c < COLUMNS; c++) {
        float input_scale = 1.0f;  // stored after the inputs, whose number is a multiple of LANES
        if constexpr (P::SCALED_INPUT) {
          std::memcpy(&input_scale, x[c] + round_up(m.groups * P::GROUP, LANES), 4);
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
          const int row = (first + r) * LANES;
          const Floats scale = load<Floats>(m.scale + row) * input_scale;
          store(to[c] + row, load<Floats>(from[c] + row) + __builtin_convertvector(sums[r][c], Floats) * scale);
        }
      }
    }
  }
  if constexpr (!P::SCALED) {
#pragma GCC unroll 8
    for (int c = 0; c < COLUMNS; c++) {
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; r++) store(to[c] + (first + r) * LANES, sums[r][c]);
    }
  }
}

template <class P, int COLUMNS>
void multiply_columns(const Part* parts, int count, int column, const float* const* from, float* const* to) {
  from += column, to += column;
  constexpr int MOST = tile_rows(COLUMNS);
  const Matrix& m = *parts[0].matrix;  // all have the same rows
  for (int panel = 0; panel < m.vectors; panel += m.panel) {
    const int width = std::min(m.panel, m.vectors - panel), end = panel + width;
    int v = panel;
    auto tiles = [&](auto rows) {
      constexpr int ROWS = std::min(decltype(rows)::value, MOST);
      for (; v + ROWS <= end && ROWS == rows; v += ROWS) {
        multiply_tile<P, ROWS, COLUMNS>(parts, count, column, panel, width, v, from, to);
      }
    };
    tiles(std::integral_constant<int, 8>{});
    tiles(std::integral_constant<int, 4>{});
    tiles(std::integral_constant<int, 2>{});
    tiles(std::integral_constant<int, 1>{});
  }
}

// to[column] = from[column] + the sum of all parts, for any number of columns; `from` and `to` may be the same
template <class P>
void multiply(const Part* parts, int count, int columns, const float* const* from, float* const* to) {
  int column = 0;
  for (; column + MAX_COLUMNS <= columns; column += MAX_COLUMNS) {
    multiply_columns<P, MAX_COLUMNS>(parts, count, column, from, to);
  }
  switch (columns - column) {
    case 1:
      return multiply_columns<P, 1>(parts, count, column, from, to);
    case 2:
      return multiply_columns<P, 2>(parts, count, column, from, to);
    case 3:
      return multiply_columns<P, 3>(parts, count, column, from, to);
    case 4:
      return multiply_columns<P, std::min(4, MAX_COLUMNS)>(parts, count, column, from, to);
    case 5:
      return multiply_columns<P, std::min(5, MAX_COLUMNS)>(parts, count, column, from, to);
    case 6:
      return multiply_columns<P, std::min(6, MAX_COLUMNS)>(parts, count, column, from, to);
    case 7:
      return multiply_columns<P, std::min(7, MAX_COLUMNS)>(parts, count, column, from, to);
  }
}
template <class P>
void multiply(const Matrix& m, const uint8_t* const* x, int columns, const float* const* from, float* const* to) {
  const Part part{&m, x};
  multiply<P>(&part, 1, columns, from, to);
}

// --------------------------------------------------------------------------------------------------- sampling

struct Sampling {     // how classes are drawn from logits
  float temperature;  // 0: greedy
  int32_t top_k;      // 0: all classes; 1: greedy
  float top_p;        // in (0, 1]; 1: all classes
};

constexpr int DRAW_BLOCK = 16;  // classes whose weights are summed separately

float sum_block(const float* weights, int block) {
  float sum = 0.0f;
  for (int q = 0; q < DRAW_BLOCK; q++) sum += weights[block * DRAW_BLOCK + q];
  return sum;
}

// The sum of all weights that are at least `threshold`; `padded` a multiple of LANES.
inline float sum_at_least(const float* weights, int padded, float threshold) {
  Floats sum = Floats{};
  for (int i = 0; i < padded; i += LANES) {
    const Floats weight = load<Floats>(weights + i);
    sum += weight >= threshold ? weight : Floats{};
  }
  float total = 0.0f;
  for (int lane = 0; lane < LANES; lane++) total += sum[lane];
  return total;
}

// Top-p: sets the weights of all classes outside the nucleus to 0. The nucleus is the shortest prefix of the classes,
// ordered by decreasing weight and, for equal weights, by increasing index, whose weight reaches top_p * total; at least
// one class. Instead of sorting, it finds the largest threshold above which there is enough weight, by bisection of the
// bits, whose order as integers is that of the numbers if these are not negative. Bisection is valid because the sum of
// the weights above a threshold, added in a fixed order, is monotonic in the threshold even with rounding.
void keep_nucleus(float* weights, int padded, float total, float top_p) {
  const float target = std::max(top_p * total, std::numeric_limits<float>::min());
  const auto number = [](uint32_t bits) { return reinterpret<float>(bits); };
  uint32_t enough = 1, too_little = reinterpret<uint32_t>(std::numeric_limits<float>::max());
  if (sum_at_least(weights, padded, number(enough)) < target) return;  // by rounding: all classes are needed
  while (too_little - enough > 1) {
    const uint32_t middle = enough + (too_little - enough) / 2;
    (sum_at_least(weights, padded, number(middle)) < target ? too_little : enough) = middle;
  }
  const float threshold = number(enough);
  float reached = sum_at_least(weights, padded, number(too_little));
  for (int q = 0; q < padded; q++) {
    if (weights[q] < threshold || (weights[q] == threshold && reached >= target)) {
      weights[q] = 0.0f;
    } else if (weights[q] == threshold) {
      reached += threshold;
    }
  }
}

// Logits (Q), u in [0, 1) -> the class, by the rule of `draw` in vqaudio/sampling/logits.py; -1 if logits are not finite.
// `weights` has room for Q rounded up to DRAW_BLOCK.
int draw(const float* logits, int classes, float u, const Sampling& sampling, float* weights) {
  const int padded = round_up(classes, DRAW_BLOCK), blocks = padded / DRAW_BLOCK;
  const float temperature = sampling.temperature;
  constexpr float LEAST = -std::numeric_limits<float>::infinity();
  std::copy_n(logits, classes, weights);
  std::fill(weights + classes, weights + padded, logits[0]);
  Floats most = load<Floats>(weights), zero = Floats{};
  for (int i = 0; i < padded; i += LANES) {
    const Floats value = load<Floats>(weights + i);
    most = greater(value, most);
    zero += value * 0.0f;  // NaN for values that are not finite
  }
  float largest = most[0];
  for (int lane = 0; lane < LANES; lane++) {
    if (zero[lane] != 0.0f) return -1;
    largest = std::max(largest, most[lane]);
  }
  if (temperature == 0.0f || sampling.top_k == 1) return int(std::find(logits, logits + classes, largest) - logits);
  float threshold = LEAST;
  if (sampling.top_k > 0 && sampling.top_k < classes) {
    std::nth_element(weights, weights + sampling.top_k - 1, weights + classes, std::greater<float>());
    threshold = weights[sampling.top_k - 1];
    std::copy_n(logits, classes, weights);
  }
  std::fill(weights + classes, weights + padded, LEAST);
  for (int i = 0; i < padded; i += LANES) {
    const Floats value = load<Floats>(weights + i), shifted = (value - largest) / temperature;
    const Floats weight = exponential(clamp(shifted, -87.0f, 0.0f));
    const auto impossible = (value < threshold) | (shifted < -87.0f);
    store(weights + i, impossible ? Floats{} : weight);
  }
  const auto sum_all = [&] {
    float total = 0.0f;
    for (int block = 0; block < blocks; block++) total += sum_block(weights, block);
    return total;
  };
  float total = sum_all();
  if (sampling.top_p < 1.0f) {
    keep_nucleus(weights, padded, total, sampling.top_p);
    total = sum_all();
  }
  const float target = u * total;
  float cumulative = 0.0f;
  int block = 0, chosen = 0;
  for (; block < blocks - 1; block++) {
    const float sum = sum_block(weights, block);
    if (cumulative + sum > target) break;
    cumulative += sum;
  }
  for (int q = block * DRAW_BLOCK; q < padded; q++) {
    if (weights[q] == 0.0f) continue;
    chosen = q;
    cumulative += weights[q];
    if (cumulative > target) break;
  }
  return chosen;
}

// ---------------------------------------------------------------------------------------------------- WaveNet

struct Shape {
  int32_t classes, layers, kernel_size, residual, skip, hop, condition, speakers, hidden;
  const int32_t* dilations;  // (L)
};

struct Tensors {       // as vqaudio/nn/wavenet.py has them, row by row; those of absent conditioning are null
  const float* embed;  // (Q + 1, R)
  const float *dilated_weight, *dilated_bias;      // (L, 2R, R, kernel_size), (L, 2R)
  const float *residual_weight, *residual_bias;    // (L - 1, R, R), (L - 1, R)
  const float *skip_weight, *skip_bias;            // (S, L * R), (S)
  const float *head_weight, *head_bias;            // (S, S), (S)
  const float *out_weight, *out_bias;              // (Q, S), (Q)
  const float *condition_weight, *condition_bias;  // (H, D), (H)
  const float* speaker;                            // (speakers, H)
  const float *project_weight, *project_bias;      // (L * 2R, H), (L * 2R)
};

constexpr int MAX_GROUP = 16;        // streams that are advanced together
constexpr int MAX_BLOCK = 8;         // steps whose past taps are computed at once
constexpr int MAX_CALLS_ALONE = 16;  // extensions without a helper thread, while no processor is free for it

struct Layer {
  int dilation;
  int ring;                  // entries of the ring of past inputs, a power of two
  int block;                 // steps whose past taps are computed at once: at most the dilation
  std::vector<Matrix> past;  // (2R, R) for each tap but the last, the oldest first
  Matrix now, residual, project;
  const float *bias, *residual_bias;
};

struct Request {                  // one call of extend
  const float* cond;              // (B, N, D) or null
  const int64_t* speakers;        // (B) or null
  const int64_t* teacher_forced;  // (B, T) or null: the inputs of the steps
  const float* uniforms;          // (B, T)
  const int64_t* lengths;         // (B), not increasing
  int64_t steps, frames;
  Sampling sampling;
  int64_t* chosen;  // (B, T)
  float* logits;    // (B, T, Q) or null
};

class Generation {  // streams in progress, as the C interface holds them
 public:
  virtual ~Generation() = default;
  virtual bool extend(const Request& request) = 0;  // false if logits were not finite
};

// The packed weights of a WaveNet, for groups of `streams` streams.
template <class P>
class Net {
 public:
  Net(const Shape& s, const Tensors& w, int streams);

  Shape shape;
  int residual, gates, skip, classes, hidden, condition;  // padded to LANES; gates: two padded halves
  std::vector<Layer> layers;
  std::vector<Matrix> skips;  // of all layers in one, or of each, where weights carry factors
  Matrix head, out, condition_weight;
  const float *embed, *skip_bias, *head_bias, *out_bias, *condition_bias, *speaker;

 private:
  void pack_layers(const Tensors& w);
  void pack_output(const Tensors& w);
  void pack_conditioning(const Tensors& w);
  int gate_row(int row) const {  // row of the padded gates -> row in the tensors, or -1
    const int r = shape.residual;
    return row % residual < r ? row / residual * r + row % residual : -1;
  }
  static auto rows_of(const float* weight, int inputs) {
    return [=](int row, int i) { return weight[size_t(row) * inputs + i]; };
  }
  float* padded_copy(const float* from, int rows, int columns, int padded) {
    float* to = arena_.take<float>(size_t(rows) * padded);
    for (int r = 0; r < rows; r++) std::copy_n(from + size_t(r) * columns, columns, to + size_t(r) * padded);
    return to;
  }
  const int streams_;  // of a group, for which the weights are laid out
  Arena arena_;
};

template <class P>
Net<P>::Net(const Shape& s, const Tensors& w, int streams) : shape(s), streams_(streams) {
  residual = round_up(s.residual, LANES), gates = 2 * residual, skip = round_up(s.skip, LANES);
  classes = round_up(s.classes, DRAW_BLOCK), hidden = round_up(s.hidden, LANES);
  condition = round_up(s.condition, LANES);
  layers.resize(s.layers);
  pack_layers(w);
  pack_output(w);
  pack_conditioning(w);
  shape.dilations = nullptr;  // belongs to the caller
}

template <class P>
void Net<P>::pack_layers(const Tensors& w) {
  const int r = shape.residual, k = shape.kernel_size;
  embed = padded_copy(w.embed, shape.classes + 1, r, residual);
  auto tap = [&](int l, int t, int columns) {
    const float* taps = w.dilated_weight + size_t(l) * 2 * r * r * k;
    return pack<P>(arena_, gates, r, columns, [&](int row, int i) {
      const int from = gate_row(row);
      return from < 0 ? 0.0f : taps[(size_t(from) * r + i) * k + t];
    });
  };
  for (int l = 0; l < shape.layers; l++) {
    Layer& layer = layers[l];
    layer.dilation = shape.dilations[l];
    layer.ring = power_of_two(layer.dilation * (k - 1));
    layer.block = std::max(1, std::min(MAX_BLOCK / streams_, layer.dilation));
    for (int t = 0; t < k - 1; t++) layer.past.push_back(tap(l, t, streams_ * layer.block));
  }
  for (int l = 0; l < shape.layers; l++) {  // separate from the past taps: a step reads these one after another
    Layer& layer = layers[l];
    layer.now = tap(l, k - 1, streams_);
    if (l < shape.layers - 1) {
      layer.residual = pack<P>(arena_, r, r, streams_, rows_of(w.residual_weight + size_t(l) * r * r, r));
      layer.residual_bias = padded_copy(w.residual_bias + size_t(l) * r, 1, r, residual);
    }
  }
}

template <class P>
void Net<P>::pack_output(const Tensors& w) {
  const int r = shape.residual, s = shape.skip;
  auto skip_weight = [&](int row, int l, int i) {
    return i < r ? w.skip_weight[(size_t(row) * shape.layers + l) * r + i] : 0.0f;
  };
  if constexpr (P::SCALED) {  // rows of different layers have different factors
    for (int l = 0; l < shape.layers; l++) {
      skips.push_back(pack<P>(arena_, s, r, streams_, [&](int row, int i) { return skip_weight(row, l, i); }));
    }
  } else {
    skips.push_back(pack<P>(arena_, s, shape.layers * residual, streams_,
                            [&](int row, int i) { return skip_weight(row, i / residual, i % residual); }));
  }
  head = pack<P>(arena_, s, s, streams_, rows_of(w.head_weight, s));
  out = pack<P>(arena_, shape.classes, s, streams_, rows_of(w.out_weight, s));
  skip_bias = padded_copy(w.skip_bias, 1, s, skip);
  head_bias = padded_copy(w.head_bias, 1, s, skip);
  out_bias = padded_copy(w.out_bias, 1, shape.classes, classes);
}

// Computed once per frame: float32 in every precision.
template <class P>
void Net<P>::pack_conditioning(const Tensors& w) {
  const int h = shape.hidden;
  if (w.condition_weight) {
    condition_weight = pack<Float32>(arena_, h, shape.condition, 1, rows_of(w.condition_weight, shape.condition));
    condition_bias = padded_copy(w.condition_bias, 1, h, hidden);
  }
  speaker = w.speaker ? padded_copy(w.speaker, shape.speakers, h, hidden) : nullptr;
  for (int l = 0; l < shape.layers; l++) {
    const size_t first = size_t(l) * 2 * shape.residual;  // row of the layer in tensors that hold all layers
    float* bias = arena_.take<float>(gates);
    for (int row = 0; row < gates; row++) {
      const int from = gate_row(row);
      if (from < 0) continue;
      bias[row] = w.dilated_bias[first + from] + (w.project_weight ? w.project_bias[first + from] : 0.0f);
    }
    layers[l].bias = bias;
    if (w.project_weight) {
      layers[l].project = pack<Float32>(arena_, gates, h, streams_, [&](int row, int i) {
        const int from = gate_row(row);
        return from < 0 ? 0.0f : w.project_weight[(first + from) * h + i];
      });
    }
  }
}

// ------------------------------------------------------------------------------------------------ two threads

double seconds_now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// Spins first, since yielding the processor would cost more than most waits. Returns the seconds spent yielding: they
// mean that the other thread is not running because the machine has other work.
template <class Ready>
inline double wait_until(Ready ready) {
  for (int turns = 0; turns < 2000; turns++) {
    if (ready()) return 0.0;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
  const double begin = seconds_now();
  while (!ready()) std::this_thread::yield();
  return seconds_now() - begin;
}

// Progress of the two threads, each counter on a cache line of its own.
struct Progress {
  alignas(128) std::atomic<int64_t> computed{0};   // by the first: layers, counted over all steps
  alignas(128) std::atomic<int64_t> filled{0};   // by the helper: layers whose gates are ready, over all steps
  alignas(128) std::atomic<int64_t> skipped{0};  // by the helper: steps whose skip sums lack only the last layer
  alignas(128) std::atomic<bool> stopped{false};
};

// ------------------------------------------------------------------------------------------- a group of streams
//
// Ownership of buffers while two threads run:
//   first    x, z, gated, the ring entry of the current step, head, logits; the skip sums from `skipped` on
//   helper   hidden, cond, frame_bias, past_*, filled_; the gates of a block until `filled` publishes them, the skip
//            sums until `skipped` does
// This is safe: a block is no longer than its layer's dilation, so that all it reads was in the ring when the layer had
// computed the previous step; gates are filled again only after their block was used; `gated` is overwritten only after
// `skipped`, and a ring entry only after the last block that reads it was filled.

// Up to MAX_GROUP streams that are advanced together, by one thread or by two.
//
// What depends on earlier steps alone, the bias of a frame and the past taps, is computed for up to `block` steps at
// once, so that weights are read once for all of them. A second thread does this, and the skip sums, while the first
// computes the layers in their order.
template <class P>
class Group {
 public:
  Group(const Net<P>& net, const std::vector<int>& members, bool with_helper);
  bool extend(const Request& request);

 private:
  // each returns the address for the first stream; the others follow
  uint8_t* ring_entry(int l, int64_t step) {
    return rings_[l].get() + size_t(step & (net_.layers[l].ring - 1)) * count_ * input_;
  }
  float* gates_of(int l, int64_t step) { return gates_[l].get() + size_t(step & (slots(l) - 1)) * count_ * net_.gates; }
  float* hidden_of(int64_t frame) { return hidden_.get() + size_t(frame & (frame_slots_ - 1)) * count_ * net_.hidden; }
  float* frame_bias(int64_t frame, int l) {
    return frame_bias_.get() + (size_t(frame & (frame_slots_ - 1)) * net_.layers.size() + l) * count_ * net_.gates;
  }
  uint8_t* gated_of(int l, int b) { return gated_.get() + (size_t(b) * net_.layers.size() + l) * input_; }
  // a block is filled after the previous one has been read
  int slots(int l) const { return power_of_two(net_.layers[l].block); }
  int64_t frame_of(int64_t step) const { return request_->cond ? step / net_.shape.hop : 0; }
  int active(int64_t t) const {  // streams that take step t of the call; the longest come first
    int count = 0;
    while (count < count_ && request_->lengths[members_[count]] > t) count++;
    return count;
  }
  void fill_hidden(int64_t frame);
  void fill_bias(int64_t frame, int l);
  int gather_past(int l, int64_t t, int64_t end);
  void fill_block(int l, int64_t t);
  void begin_step(int64_t t, int active);
  void compute_layer(int l, int64_t t, int active);
  void add_residual(int l, int active);
  void add_skips(int first, int last, int active);
  bool finish_step(int64_t t, int active);
  bool run_alone();
  bool run_with_helper();
  void leave_helper() {
    calls_alone_ = 1 + backoff_;  // this call counts
    backoff_ = std::min(2 * backoff_, MAX_CALLS_ALONE);
  }
  bool has_helper() const { return with_helper_ && calls_alone_ == 0; }  // in this call
  void help(Progress& progress);

  const Net<P>& net_;
  const std::vector<int> members_;  // indices of these streams in the generation
  const int count_, input_, skip_input_;
  const bool with_helper_;
  int64_t position_ = 0;  // steps before this call
  int calls_alone_ = 0;   // calls left until the helper is tried again
  int backoff_ = 1;       // calls without the helper when no processor is free for it; doubled each time
  const Request* request_ = nullptr;
  std::vector<Buffer<uint8_t>> rings_;  // of each layer: past inputs, [step mod ring][stream]
  std::vector<Buffer<float>> gates_;    // of each layer: before the current input is added, [step mod slots][stream]
  std::vector<int64_t> filled_;         // of each layer: the first step of the call that is not filled
  const int frame_slots_;
  int64_t hidden_frames_ = 0;           // frames whose hidden conditioning is computed
  std::vector<int64_t> biased_frames_;  // of each layer: frames whose bias is computed
  Buffer<float> frame_bias_;            // [frame mod slots][layer][stream][2R]
  Buffer<float> hidden_, x_, z_, skip_, head_, logits_, weights_;
  Buffer<uint8_t> gated_, rectified_, cond_, current_;
  // results of `gather_past`, for one thread: the inputs of each tap, and for all of them where sums start and go
  std::vector<const uint8_t*> past_inputs_;
  std::vector<Part> past_parts_;
  const float* past_from_[MAX_GROUP];
  float* past_to_[MAX_GROUP];
  std::vector<int64_t> previous_;  // the class of the previous step, of each stream
};

template <class P>
Group<P>::Group(const Net<P>& net, const std::vector<int>& members, bool with_helper)
    : net_(net),
      members_(members),
      count_(static_cast<int>(members.size())),
      input_(input_bytes<P>(net.residual)),
      skip_input_(input_bytes<P>(net.skip)),
      with_helper_(with_helper),
      frame_slots_(power_of_two(2 + MAX_BLOCK / net.shape.hop)),
      frame_bias_(size_t(frame_slots_) * net.layers.size() * count_ * net.gates),
      hidden_(size_t(frame_slots_) * count_ * net.hidden),
      x_(size_t(count_) * net.residual),
      z_(net.residual),
      skip_(size_t(count_) * net.skip),
      head_(size_t(count_) * net.skip),
      logits_(size_t(count_) * net.classes),
      weights_(net.classes),
      gated_(net.layers.size() * count_ * size_t(input_)),
      rectified_(size_t(count_) * skip_input_),
      cond_(std::max(1, input_bytes<Float32>(net.condition))),
      current_(size_t(count_) * input_),
      past_inputs_(size_t(net.shape.kernel_size) * MAX_GROUP),
      past_parts_(net.shape.kernel_size),
      previous_(count_, net.shape.classes) {
  const std::vector<float> zeros(net.residual, 0.0f);
  for (int l = 0; l < net.shape.layers; l++) {
    const Layer& layer = net.layers[l];
    rings_.emplace_back(size_t(layer.ring) * count_ * input_);
    gates_.emplace_back(size_t(slots(l)) * count_ * net.gates);
    for (int64_t entry = 0; entry < int64_t(layer.ring) * count_; entry++) {
      P::convert(zeros.data(), net.residual,
                 reinterpret_cast<typename P::Input*>(rings_.back().get() + size_t(entry) * input_));
    }
  }
  filled_.resize(net.layers.size());
  biased_frames_.resize(net.layers.size());
}

// The hidden conditioning of a frame, from codes and speaker, before it is projected to the layers
template <class P>
void Group<P>::fill_hidden(int64_t frame) {
  const Shape& s = net_.shape;
  for (int b = 0; b < count_; b++) {
    float* h = hidden_of(frame) + size_t(b) * net_.hidden;
    std::fill_n(h, net_.hidden, 0.0f);
    if (request_->cond) {
      const int64_t row = members_[b] * request_->frames + frame - position_ / s.hop;
      std::memcpy(cond_.get(), request_->cond + size_t(row) * s.condition, s.condition * sizeof(float));
      const uint8_t* x = cond_.get();
      multiply<Float32>(net_.condition_weight, &x, 1, &net_.condition_bias, &h);
    }
    if (net_.speaker) {
      const float* embedding = net_.speaker + size_t(request_->speakers[members_[b]]) * net_.hidden;
      for (int i = 0; i < net_.hidden; i++) h[i] += embedding[i];
    }
    rectify(h, net_.hidden);
  }
}

// What a frame adds to the gates of a layer, the layer's own bias included
template <class P>
void Group<P>::fill_bias(int64_t frame, int l) {
  for (; hidden_frames_ <= frame; hidden_frames_++) fill_hidden(hidden_frames_);
  const Layer& layer = net_.layers[l];
  const uint8_t* inputs[MAX_GROUP];
  const float* from[MAX_GROUP];
  float* to[MAX_GROUP];
  for (int b = 0; b < count_; b++) {
    inputs[b] = reinterpret_cast<const uint8_t*>(hidden_of(frame) + size_t(b) * net_.hidden);
    from[b] = layer.bias;
    to[b] = frame_bias(frame, l) + size_t(b) * net_.gates;
    if (!layer.project.weights) std::copy_n(from[b], net_.gates, to[b]);
  }
  if (layer.project.weights) multiply<Float32>(layer.project, inputs, count_, from, to);
}

// Finds the inputs of the past taps of a layer for the steps t to `end`, and their sums -> the number of sums
template <class P>
int Group<P>::gather_past(int l, int64_t t, int64_t end) {
  const Layer& layer = net_.layers[l];
  int64_t& biased = biased_frames_[l];
  for (; biased <= frame_of(position_ + end - 1); biased++) fill_bias(biased, l);
  int columns = 0;
  for (; t < end; t++) {
    const float* bias = frame_bias(frame_of(position_ + t), l);
    float* gates = gates_of(l, position_ + t);
    const int first = columns, running = active(t);
    for (int b = 0; b < running; b++, columns++) {
      past_from_[columns] = bias + size_t(b) * net_.gates;
      past_to_[columns] = gates + size_t(b) * net_.gates;
    }
    for (size_t tap = 0; tap < layer.past.size(); tap++) {
      const uint8_t* entry = ring_entry(l, position_ + t - int64_t(layer.past.size() - tap) * layer.dilation);
      for (int b = 0; b < running; b++) past_inputs_[tap * MAX_GROUP + first + b] = entry + size_t(b) * input_;
    }
  }
  for (size_t tap = 0; tap < layer.past.size(); tap++) {
    past_parts_[tap] = {&layer.past[tap], past_inputs_.data() + tap * MAX_GROUP};
  }
  return columns;
}

// Computes the gates of a layer before the current input is added, for the block of steps from t on.
template <class P>
void Group<P>::fill_block(int l, int64_t t) {
  const Layer& layer = net_.layers[l];
  // blocks of different layers begin at different steps, so that all steps have the same amount of work
  const int most = t == 0 ? 1 + l % layer.block : layer.block;
  filled_[l] = std::min(t + most, request_->steps);
  const int columns = gather_past(l, t, filled_[l]);
  multiply<P>(past_parts_.data(), static_cast<int>(layer.past.size()), columns, past_from_, past_to_);
}

template <class P>
void Group<P>::begin_step(int64_t t, int active) {
  for (int b = 0; b < active; b++) {
    const int64_t* forced = request_->teacher_forced;
    const int64_t input = forced ? forced[members_[b] * request_->steps + t] : previous_[b];
    std::copy_n(net_.embed + size_t(input) * net_.residual, net_.residual, x_.get() + size_t(b) * net_.residual);
  }
}

// x -> the gated outputs of a layer; x is stored in its ring. Without a helper, the past taps come first.
template <class P>
void Group<P>::compute_layer(int l, int64_t t, int active) {
  using Input = typename P::Input;
  const Layer& layer = net_.layers[l];
  const bool all_taps = !has_helper() && layer.block == 1;  // in one product
  if (all_taps) {
    gather_past(l, t, t + 1);
  } else if (!has_helper() && filled_[l] == t) {
    fill_block(l, t);
  }
  const uint8_t* inputs[MAX_GROUP];
  float* sums[MAX_GROUP];
  // with all taps in one product, the ring entry for x still holds the oldest input, which the product reads
  uint8_t* entry = all_taps ? current_.get() : ring_entry(l, position_ + t);
  float* gates = gates_of(l, position_ + t);
  for (int b = 0; b < active; b++) {
    inputs[b] = entry + size_t(b) * input_;
    sums[b] = gates + size_t(b) * net_.gates;
    P::convert(x_.get() + size_t(b) * net_.residual, net_.residual,
               reinterpret_cast<Input*>(entry + size_t(b) * input_));
  }
  if (all_taps) {
    past_parts_[layer.past.size()] = {&layer.now, inputs};
    multiply<P>(past_parts_.data(), static_cast<int>(layer.past.size()) + 1, active, past_from_, sums);
    std::memcpy(ring_entry(l, position_ + t), entry, size_t(active) * input_);
  } else {
    multiply<P>(layer.now, inputs, active, sums, sums);
  }
  for (int b = 0; b < active; b++) {
    gate(sums[b], net_.residual, z_.get());
    P::convert(z_.get(), net_.residual, reinterpret_cast<Input*>(gated_of(l, b)));
  }
}

template <class P>
void Group<P>::add_residual(int l, int active) {
  const Layer& layer = net_.layers[l];
  if (!layer.residual.weights) return;  // the last layer has no residual output
  const uint8_t* inputs[MAX_GROUP];
  float* sums[MAX_GROUP];
  for (int b = 0; b < active; b++) {
    inputs[b] = gated_of(l, b);
    sums[b] = x_.get() + size_t(b) * net_.residual;
    for (int i = 0; i < net_.residual; i += LANES) {
      store(sums[b] + i, load<Floats>(sums[b] + i) + load<Floats>(layer.residual_bias + i));
    }
  }
  multiply<P>(layer.residual, inputs, active, sums, sums);
}

// Adds the gated outputs of the layers from `first` to before `last` to the skip sums.
template <class P>
void Group<P>::add_skips(int first, int last, int active) {
  const uint8_t* inputs[MAX_GROUP];
  const float* from[MAX_GROUP];
  float* to[MAX_GROUP];
  auto add = [&](const Matrix& matrix, int layer) {
    for (int b = 0; b < active; b++) {
      inputs[b] = gated_of(layer, b);
      to[b] = skip_.get() + size_t(b) * net_.skip;
      from[b] = layer == 0 ? net_.skip_bias : to[b];
    }
    multiply<P>(matrix, inputs, active, from, to);
  };
  if constexpr (P::SCALED) {
    for (int l = first; l < last; l++) add(net_.skips[l], l);
  } else {
    Matrix some = net_.skips[0];
    const int groups = some.groups / net_.shape.layers;
    some.begin = first * groups, some.groups = (last - first) * groups;
    add(some, first);
  }
}

// skip sums -> logits -> classes; false if logits are not finite
template <class P>
bool Group<P>::finish_step(int64_t t, int active) {
  const uint8_t* inputs[MAX_GROUP];
  const float *head_bias[MAX_GROUP], *out_bias[MAX_GROUP];
  float *skips[MAX_GROUP], *heads[MAX_GROUP], *logits[MAX_GROUP];
  auto rectified = [&](float* from, int b) {
    rectify(from, net_.skip);
    uint8_t* to = rectified_.get() + size_t(b) * skip_input_;
    P::convert(from, net_.skip, reinterpret_cast<typename P::Input*>(to));
    return to;
  };
  for (int b = 0; b < active; b++) {
    skips[b] = skip_.get() + size_t(b) * net_.skip;
    heads[b] = head_.get() + size_t(b) * net_.skip;
    logits[b] = logits_.get() + size_t(b) * net_.classes;
    inputs[b] = rectified(skips[b], b);
    head_bias[b] = net_.head_bias, out_bias[b] = net_.out_bias;
  }
  multiply<P>(net_.head, inputs, active, head_bias, heads);
  for (int b = 0; b < active; b++) rectified(heads[b], b);
  multiply<P>(net_.out, inputs, active, out_bias, logits);
  for (int b = 0; b < active; b++) {
    const int64_t at = members_[b] * request_->steps + t;
    const int chosen =
        draw(logits[b], net_.shape.classes, request_->uniforms[at], request_->sampling, weights_.get());
    if (chosen < 0) return false;
    request_->chosen[at] = previous_[b] = chosen;
    if (request_->logits) {
      std::copy_n(logits[b], net_.shape.classes, request_->logits + size_t(at) * net_.shape.classes);
    }
  }
  return true;
}

template <class P>
bool Group<P>::run_alone() {
  const int layers = static_cast<int>(net_.layers.size());
  for (int64_t t = 0; t < request_->steps; t++) {
    const int running = active(t);
    if (!running) break;
    begin_step(t, running);
    for (int l = 0; l < layers; l++) {
      compute_layer(l, t, running);
      add_residual(l, running);
    }
    add_skips(0, layers, running);
    if (!finish_step(t, running)) return false;
  }
  return true;
}

template <class P>
bool Group<P>::run_with_helper() {
  const int layers = static_cast<int>(net_.layers.size());
  Progress progress;
  std::thread helper;
  try {
    helper = std::thread([&] { help(progress); });
  } catch (const std::exception&) {  // no more threads
    leave_helper();
    return run_alone();
  }
  bool finite = true;
  double waited = 0.0;
  const double begin = seconds_now();
  for (int64_t t = 0; t < request_->steps && finite; t++) {
    const int running = active(t);
    if (!running) break;
    begin_step(t, running);
    for (int l = 0; l < layers; l++) {
      const int64_t layer = t * layers + l;
      waited += wait_until([&] { return progress.filled.load(std::memory_order_acquire) > layer; });
      compute_layer(l, t, running);
      progress.computed.store(layer + 1, std::memory_order_release);
      add_residual(l, running);
    }
    waited += wait_until([&] { return progress.skipped.load(std::memory_order_acquire) > t; });
    add_skips(layers - 1, layers, running);  // the helper leaves the last layer to this thread
    finite = finish_step(t, running);
  }
  progress.stopped.store(true, std::memory_order_release);
  helper.join();
  // on a machine without a free second core, one thread is faster than two that wait for each other
  if (waited > 0.25 * (seconds_now() - begin)) {
    leave_helper();
  } else {
    backoff_ = 1;
  }
  return finite;
}

// The second thread: skip sums first, which the current step waits for, then the gates of the next step.
template <class P>
void Group<P>::help(Progress& progress) {
  const int layers = static_cast<int>(net_.layers.size());
  for (int l = 0; l < layers; l++) {
    fill_block(l, 0);
    progress.filled.store(l + 1, std::memory_order_release);
  }
  for (int64_t t = 0; t < request_->steps; t++) {
    const int running = active(t);
    if (layers == 1) progress.skipped.store(t + 1, std::memory_order_release);
    for (int skips = 0, fills = 0; skips < layers - 1 || fills < layers;) {
      int64_t computed = 0;
      bool stopped = false;
      wait_until([&] {
        computed = progress.computed.load(std::memory_order_acquire) - t * layers;
        stopped = progress.stopped.load(std::memory_order_acquire);
        return (skips < layers - 1 && computed > skips) || (fills < layers && computed > fills) || stopped;
      });
      if (stopped) return;
      if (skips < layers - 1 && computed > skips) {
        const int last = static_cast<int>(std::min<int64_t>(computed, layers - 1));
        add_skips(skips, last, running);
        skips = last;
        if (skips == layers - 1) progress.skipped.store(t + 1, std::memory_order_release);
      } else if (computed > fills) {
        if (t + 1 < request_->steps && filled_[fills] == t + 1) fill_block(fills, t + 1);
        fills++;
        progress.filled.store((t + 1) * layers + fills, std::memory_order_release);
      }
    }
  }
}

template <class P>
bool Group<P>::extend(const Request& request) {
  request_ = &request;
  std::fill(filled_.begin(), filled_.end(), 0);
  const bool finite = !active(0) || (has_helper() ? run_with_helper() : run_alone());
  if (calls_alone_ > 0) calls_alone_--;
  position_ += request.steps;
  request_ = nullptr;
  return finite;
}

// --------------------------------------------------------------------------------------------- groups of streams

// Streams are distributed over groups, and groups over threads.
template <class P>
class Groups final : public Generation {
 public:
  Groups(const Shape& shape, const Tensors& tensors, int streams, int groups, int threads)
      : net_(shape, tensors, (streams + groups - 1) / groups), workers_(std::min(threads, groups)) {
    for (int g = 0; g < groups; g++) {  // round robin, so that long streams are spread over all groups
      std::vector<int> members;
      for (int b = g; b < streams; b += groups) members.push_back(b);
      groups_.push_back(std::make_unique<Group<P>>(net_, members, threads >= 2 * groups));
    }
  }
  bool extend(const Request& request) override {
    std::atomic<size_t> next{0};
    std::atomic<bool> finite{true};
    auto work = [&] {
      for (size_t g; (g = next.fetch_add(1)) < groups_.size();) {
        if (!groups_[g]->extend(request)) finite = false;
      }
    };
    std::vector<std::thread> others;
    others.reserve(workers_);
    try {
      for (int worker = 1; worker < workers_; worker++) others.emplace_back(work);
    } catch (const std::exception&) {  // no more threads: the running ones do the work
    }
    work();
    for (std::thread& other : others) other.join();
    return finite;
  }

 private:
  const Net<P> net_;
  const int workers_;
  std::vector<std::unique_ptr<Group<P>>> groups_;
};

// ----------------------------------------------------------------------------------------------- nearest codes

constexpr int NEAREST_ROWS = 2;  // vectors of codes that are compared at once

// rows (M, D), codes (K, D) -> for each row the code e with the least |e|^2 / 2 - row . e, the first of equals.
class NearestCode {
 public:
  NearestCode(const float* codes, int count, int width)
      : width_(width),
        count_(count),
        padded_(round_up(count, BLOCK)),
        packed_(size_t(padded_) * width),
        half_norms_(padded_) {
    Floats zero = Floats{};  // NaN where a code is not finite
    for (int first = 0; first < padded_; first += BLOCK) {
      float* to = packed_.get() + size_t(first) * width;
      for (int k = first; k < std::min(first + BLOCK, count); k++) {
        const float* from = codes + size_t(k) * width;
        for (int d = 0; d < width; d++) to[size_t(d) * BLOCK + k - first] = -from[d];
      }
      Floats norms[NEAREST_ROWS] = {};
      for (int d = 0; d < width; d++, to += BLOCK) {
#pragma GCC unroll 8
        for (int r = 0; r < NEAREST_ROWS; r++) {
          const Floats values = load<Floats>(to + r * LANES);
          norms[r] += values * values;
          zero += values * 0.0f;
        }
      }
      for (int r = 0; r < NEAREST_ROWS; r++) store(half_norms_.get() + first + r * LANES, norms[r] * 0.5f);
    }
    std::fill(half_norms_.get() + count, half_norms_.get() + padded_, std::numeric_limits<float>::infinity());
    for (int lane = 0; lane < LANES; lane++) finite_ = finite_ && zero[lane] == 0.0f;
  }

  bool finite() const { return finite_; }

  void find(const float* rows, int64_t begin, int64_t end, int64_t* codes) const {
    for (int64_t row = begin; row < end; row += MAX_COLUMNS) find_block(rows, row, end, codes);
  }

 private:
  static constexpr int BLOCK = NEAREST_ROWS * LANES;

  void find_block(const float* rows, int64_t row, int64_t end, int64_t* codes) const {
    const uint8_t* x[MAX_COLUMNS];
    Floats best[MAX_COLUMNS];
    Ints found[MAX_COLUMNS];
    Ints lanes;
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = lane;
    for (int c = 0; c < MAX_COLUMNS; c++) {  // past the end: the last row again
      x[c] = reinterpret_cast<const uint8_t*>(rows + size_t(std::min(row + c, end - 1)) * width_);
      best[c] = broadcast(std::numeric_limits<float>::infinity());
      found[c] = Ints{};
    }
    for (int first = 0; first < padded_; first += BLOCK) {
      Floats sums[NEAREST_ROWS][MAX_COLUMNS];
#pragma GCC unroll 8
      for (int r = 0; r < NEAREST_ROWS; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < MAX_COLUMNS; c++) sums[r][c] = load<Floats>(half_norms_.get() + first + r * LANES);
      }
      const auto* packed = reinterpret_cast<const uint8_t*>(packed_.get() + size_t(first) * width_);
      accumulate<Float32, NEAREST_ROWS, MAX_COLUMNS>(sums, packed, BLOCK * sizeof(float), width_, x);
#pragma GCC unroll 8
      for (int r = 0; r < NEAREST_ROWS; r++) {
        const Ints code = lanes + (first + r * LANES);
#pragma GCC unroll 8
        for (int c = 0; c < MAX_COLUMNS; c++) {
          const auto nearer = sums[r][c] < best[c];
          best[c] = nearer ? sums[r][c] : best[c];
          found[c] = nearer ? code : found[c];
        }
      }
    }
    for (int c = 0; c < MAX_COLUMNS && row + c < end; c++) {
      int least = 0;
      for (int lane = 1; lane < LANES; lane++) {
        const bool nearer = best[c][lane] < best[c][least];
        const bool equal_before = best[c][lane] == best[c][least] && found[c][lane] < found[c][least];
        if (nearer || equal_before) least = lane;
      }
      const bool finite = std::isfinite(best[c][least]);
      codes[row + c] = finite ? found[c][least] : find_not_finite(reinterpret_cast<const float*>(x[c]));
    }
  }

  // For a row that is not finite, or whose sums overflow: as argmin in PyTorch, the first sum that is NaN, else the
  // smallest.
  int find_not_finite(const float* row) const {
    float best = std::numeric_limits<float>::infinity();
    int found = 0;
    for (int k = 0; k < count_; k++) {
      const float* code = packed_.get() + size_t(k / BLOCK) * BLOCK * width_ + k % BLOCK;
      float sum = half_norms_.get()[k];
      for (int d = 0; d < width_; d++) sum += row[d] * code[size_t(d) * BLOCK];
      if (std::isnan(sum)) return k;
      if (sum < best) best = sum, found = k;
    }
    return found;
  }

  const int width_, count_, padded_;
  Buffer<float> packed_, half_norms_;
  bool finite_ = true;
};

// ------------------------------------------------------------------------------------------ gates in training
//
// Pre-activations of a layer y (N * hop, 2 R), frames (N, 2 R) that are added to them, gated values z (N * hop, R), all
// float or all bfloat16 (uint16_t); R a multiple of LANES. Arithmetic is in float.

using Halves = uint16_t __attribute__((vector_size(VECTOR_BYTES / 2)));

inline Floats load_floats(const float* from) { return load<Floats>(from); }
inline Floats load_floats(const uint16_t* from) {
  return reinterpret<Floats>(__builtin_convertvector(load<Halves>(from), Ints) << 16);
}
inline void store_floats(float* to, Floats value) { store(to, value); }
inline void store_floats(uint16_t* to, Floats value) {
#if defined(__AVX512BF16__)
  store(to, (__m256i)_mm512_cvtneps_pbh(value));
#else  // as to_bfloat16
  const Ints bits = reinterpret<Ints>(value);
  store(to, __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves));
#endif
}

struct Gate {
  Floats signal, open;  // tanh(s), sigmoid(o)
  Gate(Floats s, Floats o) {
    const Floats a = exponential(clamp(s, -15.0f, 15.0f) * -2.0f);
    const Floats b = exponential(clamp(o, -40.0f, 40.0f) * -1.0f);
    const Floats r = reciprocal((1.0f + a) * (1.0f + b));
    signal = (1.0f - a) * (1.0f + b) * r;
    open = (1.0f + a) * r;
  }
};

// y += its frame; z = tanh(first half of y) * sigmoid(second half)
template <class V>
void gate_rows(V* y, const V* frame, int64_t rows, int channels, V* z) {
  for (int64_t row = 0; row < rows; row++, y += 2 * channels, z += channels) {
    for (int i = 0; i < channels; i += LANES) {
      const Floats s = load_floats(y + i) + load_floats(frame + i);
      const Floats o = load_floats(y + channels + i) + load_floats(frame + channels + i);
      store_floats(y + i, s);
      store_floats(y + channels + i, o);
      const Gate gate(s, o);
      store_floats(z + i, gate.signal * gate.open);
    }
  }
}

// dy and z, and the sums (2 R) of dy's rows, from y and dz
template <class V>
void gate_rows_backward(const V* y, const V* dz, int64_t rows, int channels, V* dy, V* z, float* sums) {
  std::fill(sums, sums + 2 * channels, 0.0f);
  for (int64_t row = 0; row < rows; row++, y += 2 * channels, dz += channels, dy += 2 * channels, z += channels) {
    for (int i = 0; i < channels; i += LANES) {
      const Gate gate(load_floats(y + i), load_floats(y + channels + i));
      const Floats open = load_floats(dz + i) * gate.open;
      const Floats ds = open * (1.0f - gate.signal * gate.signal);
      const Floats dopen = open * gate.signal * (1.0f - gate.open);
      store_floats(dy + i, ds);
      store_floats(dy + channels + i, dopen);
      store_floats(z + i, gate.signal * gate.open);
      store(sums + i, load<Floats>(sums + i) + ds);
      store(sums + channels + i, load<Floats>(sums + channels + i) + dopen);
    }
  }
}

template <class V>
void gate_frames(void* y, const void* frames, int64_t begin, int64_t end, int hop, int channels, void* z) {
  for (int64_t n = begin; n < end; n++) {
    const int64_t row = n * hop * channels;
    gate_rows(static_cast<V*>(y) + 2 * row, static_cast<const V*>(frames) + n * 2 * channels, hop, channels,
              static_cast<V*>(z) + row);
  }
}

template <class V>
void gate_frames_backward(const void* y, const void* dz, int64_t begin, int64_t end, int hop, int channels, void* dy,
                          void* z, float* sums) {
  for (int64_t n = begin; n < end; n++) {
    const int64_t row = n * hop * channels;
    gate_rows_backward(static_cast<const V*>(y) + 2 * row, static_cast<const V*>(dz) + row, hop, channels,
                       static_cast<V*>(dy) + 2 * row, static_cast<V*>(z) + row, sums + n * 2 * channels);
  }
}

// Calls work(begin, end) for equal parts of `count`, on up to `threads` threads, fewer if no more can be started.
template <class Work>
void parallel_for(int64_t count, int threads, Work work) {
  const auto bound = [&](int thread) { return count * thread / threads; };
  std::vector<std::thread> others;
  int mine = threads;  // the parts from 0 to it are left to this thread
  try {
    for (; mine > 1; mine--) others.emplace_back(work, bound(mine - 1), bound(mine));
  } catch (const std::exception&) {
  }
  work(0, bound(mine));
  for (std::thread& other : others) other.join();
}

// -------------------------------------------------------------------------------------------- limits of a machine

// Peak multiply-adds per second of one thread: the inner loop of all products, over a panel of weights that fits in the
// L1 cache.
template <class P>
double peak(double seconds) {
  constexpr int ROWS = ACCUMULATORS / MAX_COLUMNS, GROUPS = 64, PASSES = 256;
  constexpr size_t STRIDE = size_t(ROWS) * VECTOR_BYTES;
  const Buffer<uint8_t> weights(GROUPS * STRIDE), inputs(size_t(MAX_COLUMNS) * input_bytes<P>(GROUPS * P::GROUP));
  const uint8_t* x[MAX_COLUMNS];
  for (int c = 0; c < MAX_COLUMNS; c++) x[c] = inputs.get() + size_t(c) * input_bytes<P>(GROUPS * P::GROUP);
  typename P::Sum sums[ROWS][MAX_COLUMNS] = {};
  const double begin = seconds_now();
  double elapsed = 0, rounds = 0;
  for (; elapsed < seconds; elapsed = seconds_now() - begin, rounds++) {
    for (int pass = 0; pass < PASSES; pass++) {
      asm volatile("" : : "r"(weights.get()), "r"(inputs.get()) : "memory");  // keeps the compiler from removing passes
      accumulate<P, ROWS, MAX_COLUMNS>(sums, weights.get(), STRIDE, GROUPS, x);
    }
  }
  typename P::Sum total = {};
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 8
    for (int c = 0; c < MAX_COLUMNS; c++) total += sums[r][c];
  }
  volatile typename P::Sum sink = total;  // keeps the compiler from removing sums
  (void)sink;
  return rounds * PASSES * GROUPS * ROWS * MAX_COLUMNS * LANES * P::GROUP / elapsed;
}

// Bytes per second that this thread reads, over and over, from a buffer of `bytes`, a multiple of 8 vectors.
double bandwidth(const float* buffer, int64_t bytes, double seconds) {
  const float* const end = buffer + bytes / (8 * VECTOR_BYTES) * (8 * LANES);
  Floats sums[8] = {};
  const double begin = seconds_now();
  double elapsed = 0, rounds = 0;
  for (; elapsed < seconds; elapsed = seconds_now() - begin, rounds++) {
    for (const float* at = buffer; at < end; at += 8 * LANES) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) sums[i] += load<Floats>(at + i * LANES);
    }
  }
  Floats total = {};
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) total += sums[i];
  volatile Floats sink = total;
  (void)sink;
  return rounds * double(bytes) / elapsed;
}

}  // namespace

// ------------------------------------------------------------------------------------------------- C interface

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int32_t vq_interface() { return 3; }  // as INTERFACE in library.py

// The fastest variant of this file that the machine runs; called in the generic one.
EXPORT const char* vq_best_variant() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#if defined(__clang__) || __GNUC__ >= 10  // older ones do not know the name
  if (avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) return "avx512bf16";
#endif
  if (avx512) return "avx512";
  if (avx2) return "avx2";
#endif
  return "generic";
}

EXPORT int32_t vq_max_group() { return MAX_GROUP; }

// precision: 0 float32, 1 bfloat16, 2 int8; at most vq_max_group() streams in a group. Null if memory runs out.
EXPORT void* vq_streams_new(const Shape* shape, const Tensors* tensors, int32_t precision, int32_t streams,
                            int32_t groups, int32_t threads) try {
  std::unique_ptr<Generation> made;
  if (precision == 0) made = std::make_unique<Groups<Float32>>(*shape, *tensors, streams, groups, threads);
  if (precision == 1) made = std::make_unique<Groups<Bfloat16>>(*shape, *tensors, streams, groups, threads);
  if (precision == 2) made = std::make_unique<Groups<Int8>>(*shape, *tensors, streams, groups, threads);
  return made.release();
} catch (const std::exception&) {
  return nullptr;
}
EXPORT void vq_streams_free(void* streams) { delete static_cast<Generation*>(streams); }

// 0: done; 1: logits were not finite; 2: no memory or no thread
EXPORT int32_t vq_streams_extend(void* streams, const Request* request) try {
  return static_cast<Generation*>(streams)->extend(*request) ? 0 : 1;
} catch (const std::exception&) {
  return 2;
}

// 0: done; 1: codes are not finite; 2: no memory
EXPORT int32_t vq_nearest(const float* rows, int64_t count, const float* codes, int32_t num_codes, int32_t width,
                          int32_t threads, int64_t* found) try {
  const NearestCode nearest(codes, num_codes, width);
  if (!nearest.finite()) return 1;
  constexpr int64_t ROWS = 64;  // that a thread takes at a time
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t begin; (begin = next.fetch_add(ROWS)) < count;) {
      nearest.find(rows, begin, std::min(begin + ROWS, count), found);
    }
  };
  std::vector<std::thread> others;
  try {
    for (int thread = 1; thread < threads; thread++) others.emplace_back(work);
  } catch (const std::exception&) {  // no more threads: the running ones do the work
  }
  work();
  for (std::thread& other : others) other.join();
  return 0;
} catch (const std::exception&) {
  return 2;
}

// bfloat16: 1 for bfloat16 values, 0 for float; the rest as in `gate_rows` and `gate_rows_backward`
EXPORT void vq_gate(int32_t bfloat16, void* y, const void* frames, int64_t num_frames, int32_t hop, int32_t channels,
                    int32_t threads, void* z) {
  parallel_for(num_frames, threads, [=](int64_t begin, int64_t end) {
    (bfloat16 ? gate_frames<uint16_t> : gate_frames<float>)(y, frames, begin, end, hop, channels, z);
  });
}
EXPORT void vq_gate_backward(int32_t bfloat16, const void* y, const void* dz, int64_t num_frames, int32_t hop,
                             int32_t channels, int32_t threads, void* dy, void* z, float* sums) {
  parallel_for(num_frames, threads, [=](int64_t begin, int64_t end) {
    (bfloat16 ? gate_frames_backward<uint16_t> : gate_frames_backward<float>)(y, dz, begin, end, hop, channels, dy, z,
                                                                               sums);
  });
}

// precision: 0 float32, 1 bfloat16, 2 int8
EXPORT double vq_peak(int32_t precision, double seconds) {
  return precision == 0 ? peak<Float32>(seconds) : precision == 1 ? peak<Bfloat16>(seconds) : peak<Int8>(seconds);
}
EXPORT double vq_bandwidth(const float* buffer, int64_t bytes, double seconds) {
  return bandwidth(buffer, bytes, seconds);
}
