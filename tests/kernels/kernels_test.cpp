// Tests of kernels.cpp, which they include: the compiled net is compared with a naive one, and with itself on other
// threads, in other groups and in other pieces. test_kernels_cpp.py compiles and runs this under sanitizers.
//
// usage: kernels_test [random nets]
//
// Letters as in kernels.cpp.

#include "../../vqaudio/kernels/kernels.cpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <utility>

namespace {

#define CHECK(condition, ...)                                                                            \
  if (!(condition)) {                                                                                    \
    std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition), std::printf(__VA_ARGS__), std::puts(""); \
    std::exit(1);                                                                                        \
  }

const std::array<const char*, 3> PRECISIONS = {"float32", "bf16", "int8"};
const std::array<double, 3> TOLERANCES = {1e-4, 0.06, 0.15};  // of logits, in units of their root mean square
constexpr float ALMOST_ONE = 1.0f - 0x1p-24f;                 // the largest number below 1

// ---------------------------------------------------------------------------------------------------- chance

class Chance {  // gives the same numbers with every standard library, unlike the distributions of <random>
 public:
  explicit Chance(unsigned seed) : bits_(seed) {}
  int between(int least, int most) { return least + int(bits_() % unsigned(most - least + 1)); }
  bool coin() { return between(0, 1); }
  float uniform() { return float(bits_() >> 8) * 0x1p-24f; }  // in [0, 1)
  std::vector<float> values(size_t count, double deviation) {
    std::vector<float> some(count);
    for (float& value : some) value = float((2.0 * uniform() - 1.0) * std::sqrt(3.0) * deviation);
    return some;
  }
  std::vector<int64_t> integers(size_t count, int least, int most) {
    std::vector<int64_t> some(count);
    for (int64_t& value : some) value = between(least, most);
    return some;
  }

 private:
  std::mt19937 bits_;
};

// ------------------------------------------------------------------------------------------- nets and their jobs

struct Model {
  Shape shape;
  std::vector<int32_t> dilations;
  std::vector<float> embed, dilated_weight, dilated_bias, residual_weight, residual_bias, skip_weight, skip_bias,
      head_weight, head_bias, out_weight, out_bias, condition_weight, condition_bias, speaker, project_weight,
      project_bias;
};

Model random_model(Chance& chance, bool with_cond, bool with_speaker) {
  Model m;
  Shape& s = m.shape = {};
  s.classes = chance.between(2, 50), s.layers = chance.between(1, 5), s.kernel_size = chance.between(2, 3);
  s.residual = chance.between(1, 40), s.skip = chance.between(1, 40), s.hop = chance.between(1, 7);
  s.condition = with_cond ? chance.between(1, 9) : 0, s.speakers = with_speaker ? chance.between(1, 3) : 0;
  s.hidden = chance.between(1, 20);
  for (int l = 0; l < s.layers; l++) m.dilations.push_back(chance.between(1, 10));
  auto weight = [&](int outputs, int inputs) { return chance.values(size_t(outputs) * inputs, 1 / std::sqrt(inputs)); };
  auto bias = [&](int outputs) { return chance.values(outputs, 0.2); };
  const int r = s.residual, gates = s.layers * 2 * r;
  m.embed = chance.values(size_t(s.classes + 1) * r, 1);
  m.dilated_weight = weight(gates, r * s.kernel_size), m.dilated_bias = bias(gates);
  m.residual_weight = weight((s.layers - 1) * r, r), m.residual_bias = bias((s.layers - 1) * r);
  m.skip_weight = weight(s.skip, s.layers * r), m.skip_bias = bias(s.skip);
  m.head_weight = weight(s.skip, s.skip), m.head_bias = bias(s.skip);
  m.out_weight = weight(s.classes, s.skip), m.out_bias = bias(s.classes);
  if (with_cond) m.condition_weight = weight(s.hidden, s.condition), m.condition_bias = bias(s.hidden);
  if (with_speaker) m.speaker = chance.values(size_t(s.speakers) * s.hidden, 1);
  if (with_cond || with_speaker) m.project_weight = weight(gates, s.hidden), m.project_bias = bias(gates);
  return m;
}

struct Job {  // a request for streams of a net; absent parts are empty
  int streams;
  int64_t steps;
  Sampling sampling;
  std::vector<float> cond = {}, uniforms = {};                            // (B, N, D), (B, T)
  std::vector<int64_t> speakers = {}, teacher_forced = {}, lengths = {};  // (B), (B, T), (B)
};

int64_t frames_of(int64_t steps, int hop) { return (steps + hop - 1) / hop; }

Job random_job(Chance& chance, const Shape& s, int streams) {
  const int top_k = chance.coin() ? chance.between(1, s.classes) : 0;
  const float top_p = chance.coin() ? 1.0f : 0.1f * chance.between(1, 9);
  Job job{streams, chance.between(1, 40), {0.5f * chance.between(0, 3), top_k, top_p}};
  if (s.condition) job.cond = chance.values(streams * frames_of(job.steps, s.hop) * s.condition, 1);
  if (s.speakers) job.speakers = chance.integers(streams, 0, s.speakers - 1);
  if (chance.coin()) job.teacher_forced = chance.integers(streams * job.steps, 0, s.classes);
  for (int64_t i = 0; i < streams * job.steps; i++) job.uniforms.push_back(chance.uniform());
  const int longest = chance.between(0, static_cast<int>(job.steps));
  job.lengths = chance.coin() ? std::vector<int64_t>(streams, job.steps) : chance.integers(streams, 0, longest);
  std::sort(job.lengths.begin(), job.lengths.end(), std::greater<int64_t>());
  return job;
}

// (B, W) -> the rows from `first` on and of each the columns from `begin` on; nothing where there is nothing
template <class Value>
std::vector<Value> cut(const std::vector<Value>& all, int64_t width, int first, int rows, int64_t begin,
                       int64_t count) {
  std::vector<Value> part;
  for (int row = first; row < first + rows && !all.empty(); row++) {
    const Value* from = all.data() + row * width + begin;
    part.insert(part.end(), from, from + count);
  }
  return part;
}

// The steps from `begin` on of the streams from `first` on.
Job cut(const Job& job, const Shape& s, int first, int streams, int64_t begin, int64_t steps) {
  Job part{streams, steps, job.sampling};
  const int64_t width = s.condition, frames = frames_of(job.steps, s.hop) * width;
  part.cond = cut(job.cond, frames, first, streams, begin / s.hop * width, frames_of(steps, s.hop) * width);
  part.uniforms = cut(job.uniforms, job.steps, first, streams, begin, steps);
  part.teacher_forced = cut(job.teacher_forced, job.steps, first, streams, begin, steps);
  part.speakers = cut(job.speakers, 1, first, streams, 0, 1);
  for (int64_t length : cut(job.lengths, 1, first, streams, 0, 1)) {
    part.lengths.push_back(std::min(std::max(length - begin, int64_t{0}), steps));
  }
  return part;
}

// ------------------------------------------------------------------------------------------------- through C

struct Way {
  int precision, groups, threads;
  int64_t piece;  // steps of one call
};

struct Answer {
  int failure;
  std::vector<int64_t> classes;                 // (B, T), zero after the ends
  std::vector<float> logits;                    // (B, T, Q), likewise
  bool operator==(const Answer& other) const {  // bit for bit
    auto same = [](float a, float b) { return !std::memcmp(&a, &b, sizeof a); };
    return failure == other.failure && classes == other.classes &&
           std::equal(logits.begin(), logits.end(), other.logits.begin(), other.logits.end(), same);
  }
};

template <class Value>
Value* raw(std::vector<Value>& values) {
  return values.empty() ? nullptr : values.data();
}

Answer generate(Model m, const Job& job, Way way) {
  Shape s = m.shape;
  s.dilations = m.dilations.data();
  const Tensors tensors{raw(m.embed),          raw(m.dilated_weight), raw(m.dilated_bias),   raw(m.residual_weight),
                        raw(m.residual_bias),  raw(m.skip_weight),    raw(m.skip_bias),      raw(m.head_weight),
                        raw(m.head_bias),      raw(m.out_weight),     raw(m.out_bias),       raw(m.condition_weight),
                        raw(m.condition_bias), raw(m.speaker),        raw(m.project_weight), raw(m.project_bias)};
  void* streams = vq_streams_new(&s, &tensors, way.precision, job.streams, way.groups, way.threads);
  CHECK(streams, "no memory");
  m = {};  // streams keep copies
  const size_t total = size_t(job.streams) * job.steps;
  Answer answer{0, std::vector<int64_t>(total), std::vector<float>(total * s.classes)};
  for (int64_t begin = 0; begin < job.steps && !answer.failure; begin += way.piece) {
    const int64_t steps = std::min(way.piece, job.steps - begin);
    Job part = cut(job, s, 0, job.streams, begin, steps);
    std::vector<int64_t> classes(size_t(job.streams) * steps);
    std::vector<float> logits(classes.size() * s.classes);
    const Request request{raw(part.cond),
                          raw(part.speakers),
                          raw(part.teacher_forced),
                          raw(part.uniforms),
                          raw(part.lengths),
                          steps,
                          frames_of(steps, s.hop),
                          job.sampling,
                          classes.data(),
                          logits.data()};
    answer.failure = vq_streams_extend(streams, &request);
    for (int b = 0; b < job.streams; b++) {
      const size_t to = size_t(b) * job.steps + begin, from = size_t(b) * steps;
      std::copy_n(&classes[from], steps, &answer.classes[to]);
      std::copy_n(&logits[from * s.classes], steps * s.classes, &answer.logits[to * s.classes]);
    }
  }
  vq_streams_free(streams);
  return answer;
}

// -------------------------------------------------------------------------------------- from the definition, naively

using Vector = std::vector<double>;

Vector linear(const float* weight, const float* bias, const Vector& x, int outputs) {
  Vector y(bias, bias + outputs);
  for (int o = 0; o < outputs; o++) {
    for (size_t i = 0; i < x.size(); i++) y[o] += double(weight[o * x.size() + i]) * x[i];
  }
  return y;
}
Vector relu(Vector x) {
  for (double& value : x) value = std::max(value, 0.0);
  return x;
}
void add(Vector& sum, const Vector& x) {
  for (size_t i = 0; i < x.size(); i++) sum[i] += x[i];
}

// What a frame of stream b adds to the gates of all layers, (L * 2R), as WaveNet.conditioning in vqaudio/nn/wavenet.py
Vector frame_gates(const Model& m, const Job& job, int b, int64_t frame) {
  const Shape& s = m.shape;
  if (!s.condition && !s.speakers) return Vector(s.layers * 2 * s.residual);
  Vector h(s.hidden);
  if (s.condition) {
    const float* cond = job.cond.data() + (b * frames_of(job.steps, s.hop) + frame) * s.condition;
    h = linear(m.condition_weight.data(), m.condition_bias.data(), Vector(cond, cond + s.condition), s.hidden);
  }
  if (s.speakers) {
    const float* embedding = m.speaker.data() + job.speakers[b] * s.hidden;
    add(h, Vector(embedding, embedding + s.hidden));
  }
  return linear(m.project_weight.data(), m.project_bias.data(), relu(h), s.layers * 2 * s.residual);
}

// The logits of stream b after each of its inputs, as WaveNet.forward.
std::vector<Vector> naive_logits(const Model& m, const Job& job, int b, const std::vector<int64_t>& inputs) {
  const Shape& s = m.shape;
  const int r = s.residual, k = s.kernel_size, steps = static_cast<int>(inputs.size());
  std::vector<Vector> frames, h, gated(steps), logits;
  for (int64_t frame = 0; frame < frames_of(steps, s.hop); frame++) frames.push_back(frame_gates(m, job, b, frame));
  for (int64_t input : inputs) h.emplace_back(&m.embed[input * r], &m.embed[input * r] + r);
  for (int l = 0; l < s.layers; l++) {
    std::vector<Vector> next = h;
    for (int t = 0; t < steps; t++) {
      const Vector& frame = frames[t / s.hop];
      Vector y(frame.begin() + l * 2 * r, frame.begin() + (l + 1) * 2 * r), z(r);
      for (int g = 0; g < 2 * r; g++) {
        y[g] += m.dilated_bias[l * 2 * r + g];
        for (int tap = 0; tap < k; tap++) {
          const int at = t - (k - 1 - tap) * m.dilations[l];
          const float* weight = &m.dilated_weight[(l * 2 * r + g) * r * k + tap];
          for (int i = 0; i < r && at >= 0; i++) y[g] += double(weight[i * k]) * h[at][i];
        }
      }
      for (int i = 0; i < r; i++) z[i] = std::tanh(y[i]) / (1 + std::exp(-y[r + i]));
      gated[t].insert(gated[t].end(), z.begin(), z.end());
      if (l < s.layers - 1) add(next[t], linear(&m.residual_weight[l * r * r], &m.residual_bias[l * r], z, r));
    }
    h = next;
  }
  for (const Vector& z : gated) {
    const Vector skip = relu(linear(m.skip_weight.data(), m.skip_bias.data(), z, s.skip));
    const Vector head = relu(linear(m.head_weight.data(), m.head_bias.data(), skip, s.skip));
    logits.push_back(linear(m.out_weight.data(), m.out_bias.data(), head, s.classes));
  }
  return logits;
}

// Classes by decreasing weight, of equal ones the first; as many as reach top_p of the total, at least one, by more
// than `slack` of it (which may be negative: then by less).
std::vector<bool> naive_nucleus(const Vector& weights, double top_p, double slack) {
  std::vector<int> order;
  double total = 0, reached = 0;
  for (size_t q = 0; q < weights.size(); q++) order.push_back(int(q)), total += weights[q];
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weights[a] > weights[b]; });
  std::vector<bool> kept(weights.size());
  for (const int q : order) {
    kept[q] = true;
    if ((reached += weights[q]) >= (top_p + slack) * total) break;
  }
  return kept;
}

// Whether `chosen` is the class that u selects, as `draw` in vqaudio/sampling/logits.py, up to rounding near a boundary.
void check_choice(const float* logits, int classes, float u, const Sampling& sampling, int64_t chosen) {
  const double largest = *std::max_element(logits, logits + classes);
  const int top_k = sampling.top_k;
  const float temperature = sampling.temperature;
  CHECK(0 <= chosen && chosen < classes, "class %d of %d", int(chosen), classes);
  if (temperature == 0 || top_k == 1) {
    const int64_t first = std::max_element(logits, logits + classes) - logits;
    CHECK(chosen == first, "greedy took class %d, not %d", int(chosen), int(first));
    return;
  }
  std::vector<float> sorted(logits, logits + classes);
  std::sort(sorted.begin(), sorted.end(), std::greater<float>());
  const float threshold = sorted[top_k > 0 && top_k < classes ? top_k - 1 : classes - 1];
  Vector weights(classes);
  for (int q = 0; q < classes; q++) {
    const double shifted = (logits[q] - largest) / temperature;
    weights[q] = logits[q] < threshold || shifted < -87.001 ? 0 : std::exp(shifted);
  }
  if (sampling.top_p < 1) {
    const std::vector<bool> kept = naive_nucleus(weights, sampling.top_p, 0);
    // rounding may decide on the last class: where it does, only that the larger set contains the class is checked
    const std::vector<bool> most = naive_nucleus(weights, sampling.top_p, 1e-5);
    CHECK(most[chosen], "class %d, which is outside the nucleus of %g, was drawn", int(chosen), sampling.top_p);
    if (most != naive_nucleus(weights, sampling.top_p, -1e-5)) return;
    double least = 1, next = 0;
    for (int q = 0; q < classes; q++) (kept[q] ? least : next) = kept[q] ? std::min(least, weights[q]) : std::max(next, weights[q]);
    if (next < least && next > least * (1 - 1e-5)) return;  // rounding may decide which of two classes is in it
    for (int q = 0; q < classes; q++) weights[q] = kept[q] ? weights[q] : 0;
  }
  double total = 0, before = 0, through = 0;
  for (int q = 0; q < classes; q++) {
    const double shifted = (logits[q] - largest) / temperature, weight = weights[q];
    CHECK(q != chosen || weight > 0, "class %d, which is impossible, was drawn with %.9g", q, u);
    CHECK(u > 0 || q >= chosen || shifted < -86.999 || weight == 0, "0 passed class %d, which is possible", q);
    total += weight;
    if (q < chosen) before = total;
    if (q == chosen) through = total;
  }
  CHECK(before / total - 1e-5 <= u && u <= through / total + 1e-5, "%.9g drew class %d of %.9g..%.9g", u, int(chosen),
        before / total, through / total);
}

// ------------------------------------------------------------------------------------------------------ tests

std::array<double, 3> largest_errors = {};

void check_against_naive(const Model& m, const Job& job, int precision, const Answer& answer) {
  const int classes = m.shape.classes;
  double error = 0, squares = 0, count = 0;
  for (int b = 0; b < job.streams; b++) {
    std::vector<int64_t> inputs = {classes};  // `start`, and then the classes drawn
    for (int64_t t = 0; t < job.steps; t++) inputs.push_back(answer.classes[b * job.steps + t]);
    if (!job.teacher_forced.empty()) inputs = cut(job.teacher_forced, job.steps, b, 1, 0, job.steps);
    inputs.resize(job.lengths[b]);
    const std::vector<Vector> expected = naive_logits(m, job, b, inputs);
    for (int64_t t = 0; t < job.lengths[b]; t++) {
      const int64_t at = b * job.steps + t;
      const float* logits = &answer.logits[at * classes];
      for (int q = 0; q < classes; q++, count++) {
        error = std::max(error, std::fabs(logits[q] - expected[t][q]));
        squares += expected[t][q] * expected[t][q];
      }
      check_choice(logits, classes, job.uniforms[at], job.sampling, answer.classes[at]);
    }
  }
  if (count) error /= std::sqrt(squares / count);
  CHECK(error < TOLERANCES[precision], "%s: %g from the naive net", PRECISIONS[precision], error);
  largest_errors[precision] = std::max(largest_errors[precision], error);
}

void check_net(unsigned seed) {
  const int several[] = {1, 2, 3, 5, 8, 11, 17, 19};
  Chance chance(seed);
  const Model m = random_model(chance, seed & 1, seed & 2);
  const Shape& s = m.shape;
  const Job job = random_job(chance, s, several[chance.between(0, 7)]);
  const std::array<int, 2> ways[] = {{1, 1}, {1, 2}, {2, 1}, {2, 2}, {2, 4}, {3, 2}, {3, 4}, {3, 6}};
  for (int precision = 0; precision < 3; precision++) {
    const int fewest = (job.streams + MAX_GROUP - 1) / MAX_GROUP;
    const Answer answer = generate(m, job, {precision, fewest, 1, job.steps});
    CHECK(answer.failure == 0, "net %u: %d", seed, answer.failure);
    check_against_naive(m, job, precision, answer);
    for (const auto& [groups, threads] : ways) {
      if (groups < fewest || groups > job.streams) continue;
      const int64_t few = s.condition ? s.hop : chance.between(1, 3);  // a helper that waited is not used for some calls
      for (const int64_t piece : {job.steps, few}) {
        CHECK(generate(m, job, {precision, groups, threads, piece}) == answer,
              "net %u: %d streams in %s differ on %d threads, in %d groups and pieces of %d", seed, job.streams,
              PRECISIONS[precision], threads, groups, int(piece));
      }
    }
    for (int trial = 0; trial < 3; trial++) {  // a stream alone, which ends where it ends
      const int b = chance.between(0, job.streams - 1);
      const int64_t length = job.lengths[b];
      const Answer alone = generate(m, cut(job, s, b, 1, 0, length), {precision, 1, chance.between(1, 2), 40});
      const Answer here = {0, cut(answer.classes, job.steps, b, 1, 0, length),
                           cut(answer.logits, job.steps * s.classes, b, 1, 0, length * s.classes)};
      CHECK(alone == here, "net %u: stream %d of %d differs alone in %s", seed, b, job.streams, PRECISIONS[precision]);
    }
  }
}

// Logits that overflow to infinity or NaN are reported, whatever the layer, and no thread waits for ever.
void check_not_finite(Chance& chance) {
  using Weights = std::vector<float> Model::*;
  const std::pair<const char*, std::array<Weights, 2>> places[] = {
      {"out", {&Model::head_bias, &Model::out_weight}},
      {"skip", {&Model::dilated_bias, &Model::skip_weight}},
      {"residual", {&Model::embed, &Model::residual_bias}},
  };
  for (const auto& [place, broken] : places) {
    Model m;
    do m = random_model(chance, true, true);
    while (m.shape.layers < 2 || m.shape.residual < 8 || m.shape.skip < 8);  // so that infinities of both signs meet
    for (const Weights weights : broken) std::fill((m.*weights).begin(), (m.*weights).end(), 3e38f);
    for (int precision = 0; precision < 3; precision++) {
      if (place == std::string("residual") && precision == 2) continue;  // whole numbers: gates of infinity are finite
      for (const auto& [groups, threads] : {std::array{1, 1}, std::array{1, 2}, std::array{3, 2}, std::array{2, 4}}) {
        Job job = random_job(chance, m.shape, 5);
        job.lengths.assign(5, job.steps);
        const Answer answer = generate(m, job, {precision, groups, threads, job.steps});
        CHECK(answer.failure == 1, "%s weights of 3e38 went unnoticed in %s by %d threads in %d groups", place,
              PRECISIONS[precision], threads, groups);
      }
    }
  }
}

// Streams that ended are extended on together with the others, but nothing is read for them.
void check_ended(Chance& chance) {
  Model m;
  do m = random_model(chance, true, false);
  while (m.shape.hop > 2);
  Job job = random_job(chance, m.shape, 2);
  while (job.steps < 30) job = random_job(chance, m.shape, 2);  // helpers that had to wait are tried again
  job.lengths.assign(2, m.shape.hop);
  const Answer answer = generate(m, job, {0, 1, 1, job.steps});
  for (const int groups : {1, 2}) CHECK(generate(m, job, {0, groups, 4, m.shape.hop}) == answer, "ended streams go on");
}

void check_draw(Chance& chance) {
  float equal[DRAW_BLOCK] = {}, room[DRAW_BLOCK];
  for (int q = 0; q < 8; q++) {
    CHECK(draw(equal, 8, q / 8.0f, {1.0f, 0, 1.0f}, room) == q, "at a boundary the next class");
    const float top_p = (q + 1) / 8.0f;  // keeps the first q + 1 of equal ones
    CHECK(draw(equal, 8, ALMOST_ONE, {1.0f, 0, top_p}, room) == q, "of equally likely classes the first are kept");
    CHECK(draw(equal, 8, ALMOST_ONE, {1.0f, 0, 0x1p-140f}, room) == 0, "a tiny p is greedy");
  }
  const float temperatures[] = {0.0f, 0.01f, 0.7f, 1.0f, 5.0f}, scales[] = {0.1f, 3.0f, 100.0f};
  for (int trial = 0; trial < 3000; trial++) {
    const int classes = chance.between(2, trial % 10 ? 50 : 300), padded = round_up(classes, DRAW_BLOCK);
    std::vector<float> logits = chance.values(classes, scales[chance.between(0, 2)]), weights(padded);
    for (float& logit : logits) {
      if (trial % 3 == 0) logit = std::nearbyint(logit);  // equal ones
      if (trial % 5 == 0 && chance.coin()) logit = -1e30f;
    }
    Sampling sampling{temperatures[chance.between(0, 4)], chance.coin() ? chance.between(1, classes + 1) : 0, 1.0f};
    if (chance.coin()) sampling.top_p = std::max(chance.uniform(), 1e-6f);
    std::vector<float> given = logits;
    given.resize(padded, std::nanf(""));
    for (const float u : {0.0f, chance.uniform(), chance.uniform(), ALMOST_ONE}) {
      check_choice(logits.data(), classes, u, sampling, draw(given.data(), classes, u, sampling, weights.data()));
    }
    for (const float bad : {HUGE_VALF, -HUGE_VALF, std::nanf("")}) {
      given[chance.between(0, classes - 1)] = bad;
      CHECK(draw(given.data(), classes, 0.5f, sampling, weights.data()) == -1, "%g was drawn from", bad);
      std::copy(logits.begin(), logits.end(), given.begin());
    }
  }
}

void check_nearest(Chance& chance) {
  for (int trial = 0; trial < 300; trial++) {
    const int count = chance.between(1, 60), num_codes = chance.between(1, 100), width = chance.between(1, 20);
    std::vector<float> rows = chance.values(count * width, 1.5), codes = chance.values(num_codes * width, 1.5);
    const bool whole = trial % 2;  // then sums are exact and many codes as near as others
    for (float& value : rows) value = whole ? std::nearbyint(value) : value;
    for (float& value : codes) value = whole ? std::nearbyint(value) : value;
    std::vector<int64_t> found(count, -1);
    CHECK(vq_nearest(rows.data(), count, codes.data(), num_codes, width, chance.between(1, 3), found.data()) == 0, "?");
    for (int row = 0; row < count; row++) {
      Vector distances(num_codes);
      for (int i = 0; i < num_codes * width; i++) {
        distances[i / width] += std::pow(double(rows[row * width + i % width]) - codes[i], 2);
      }
      const int64_t first = std::min_element(distances.begin(), distances.end()) - distances.begin();
      CHECK(0 <= found[row] && found[row] < num_codes, "code %d of %d", int(found[row]), num_codes);
      CHECK(found[row] == first || (!whole && distances[found[row]] < distances[first] + 1e-4),
            "row %d of %d: code %d of %d is not the first of the nearest, which is %d", row, count, int(found[row]),
            num_codes, int(first));
    }
    codes[chance.between(0, num_codes * width - 1)] = trial % 2 ? std::nanf("") : HUGE_VALF;
    CHECK(vq_nearest(rows.data(), count, codes.data(), num_codes, width, 1, found.data()) == 1, "codes not finite");
  }
}

void check_gate(Chance& chance) {
  for (int trial = 0; trial < 40; trial++) {
    const int frames = chance.between(1, 5), hop = chance.between(1, 9), channels = 16 * chance.between(1, 3);
    const int rows = frames * hop, width = 2 * channels;
    std::vector<float> y = chance.values(rows * width, 3.0), by_frame = chance.values(frames * width, 1.0);
    const std::vector<float> given = y, dz = chance.values(rows * channels, 1.0);
    std::vector<float> z(rows * channels), again(z), dy(y), sums(by_frame), expected_sums(frames * width);
    vq_gate(0, y.data(), by_frame.data(), frames, hop, channels, chance.between(1, 3), z.data());
    vq_gate_backward(0, y.data(), dz.data(), frames, hop, channels, chance.between(1, 3), dy.data(), again.data(),
                     sums.data());
    for (int row = 0; row < rows; row++) {
      for (int c = 0; c < channels; c++) {
        const int s = row * width + c, o = s + channels, f = row / hop * width + c, at = row * channels + c;
        const double signal = std::tanh(double(given[s]) + by_frame[f]);
        const double open = 1 / (1 + std::exp(-double(given[o]) - by_frame[f + channels]));
        const double ds = dz[at] * open * (1 - signal * signal), dopen = dz[at] * signal * open * (1 - open);
        const double wrong[] = {z[at] - signal * open, again[at] - signal * open, dy[s] - ds, dy[o] - dopen};
        for (const double error : wrong) CHECK(std::abs(error) < 1e-5, "a gate is wrong by %g", error);
        expected_sums[f] += ds;
        expected_sums[f + channels] += dopen;
      }
    }
    for (size_t i = 0; i < sums.size(); i++) {
      CHECK(std::abs(sums[i] - expected_sums[i]) < 1e-4, "%g, not %g", sums[i], expected_sums[i]);
    }
  }
}

void check_measures() {
  const std::vector<float> buffer(1000);
  for (int precision = 0; precision < 3; precision++) CHECK(vq_peak(precision, 1e-3) > 0, "no work was done");
  CHECK(vq_bandwidth(buffer.data(), buffer.size() * sizeof(float), 1e-3) > 0, "nothing was read");
}

}  // namespace

int main(int count, char** arguments) {
  const int nets = count > 1 ? std::atoi(arguments[1]) : 24;
  Chance chance(1);
  check_draw(chance);
  check_nearest(chance);
  check_gate(chance);
  check_not_finite(chance);
  check_ended(chance);
  check_measures();
  for (int net = 0; net < nets; net++) check_net(net);
  std::printf("%d nets; largest errors:", nets);
  for (int p = 0; p < 3; p++) std::printf(" %s %.2g", PRECISIONS[p], largest_errors[p]);
  std::printf("\n");
}
