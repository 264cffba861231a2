// The kernel of `layer_norm`. Included once per instruction set, behind its floats_*.hpp.

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr int norm_sums = LayerNormJob::sums;
constexpr int norm_vectors = norm_sums / float_lanes;

/// Adds up what `term` makes of every element, in the order of `layer_norm`; of `nothing` it makes
/// 0.
template <typename Term>
inline float row_sum(const float* x, std::int64_t columns, float nothing, Term term) {
  Floats sums[norm_vectors];
  for (int v = 0; v < norm_vectors; ++v) {
    sums[v] = broadcast(0.0F);
  }
  const std::int64_t whole = columns / norm_sums * norm_sums;
  for (std::int64_t e = 0; e < whole; e += norm_sums) {
    for (int v = 0; v < norm_vectors; ++v) {
      sums[v] = add(sums[v], term(load(x + e + v * float_lanes)));
    }
  }
  if (whole < columns) {
    float rest[norm_sums];
    for (std::int64_t e = 0; e < norm_sums; ++e) {
      rest[e] = whole + e < columns ? x[whole + e] : nothing;
    }
    for (int v = 0; v < norm_vectors; ++v) {
      sums[v] = add(sums[v], term(load(rest + v * float_lanes)));
    }
  }
  for (int half = norm_vectors / 2; half > 0; half /= 2) {
    for (int v = 0; v < half; ++v) {
      sums[v] = add(sums[v], sums[v + half]);
    }
  }
  float lanes[float_lanes];
  store(lanes, sums[0]);
  for (int half = float_lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      lanes[i] += lanes[i + half];
    }
  }
  return lanes[0];
}

}  // namespace

Isa layer_norm(const LayerNormJob& job, std::int64_t begin, std::int64_t end) {
  const std::int64_t columns = job.x.cols;
  const auto size = static_cast<float>(columns);
  for (std::int64_t row = begin; row < end; ++row) {
    const float* x = job.x.data + row * job.x.row_stride;
    std::uint16_t* out = job.out.data + row * job.out.row_stride;
    const float mean = row_sum(x, columns, 0.0F, [](Floats a) { return a; }) / size;
    const Floats means = broadcast(mean);
    const float squares = row_sum(x, columns, mean, [means](Floats a) {
      const Floats apart = subtract(a, means);
      return multiply(apart, apart);
    });
    const float inverse = 1.0F / __builtin_sqrtf(squares / size + job.epsilon);
    const Floats inverses = broadcast(inverse);
    const auto normed = [&](std::int64_t e) {
      const Floats scaled = multiply(subtract(load(x + e), means), inverses);
      return add(multiply(scaled, load(job.weight + e)), load(job.bias + e));
    };
    constexpr std::int64_t step = 2 * float_lanes;
    const std::int64_t whole = columns / step * step;
    for (std::int64_t e = 0; e < whole; e += step) {
      store_bfloat16(out + e, normed(e), normed(e + float_lanes));
    }
    for (std::int64_t e = whole; e < columns; ++e) {
      // One element in a vector of zeros: rounded by the same code.
      float value[float_lanes] = {(x[e] - mean) * inverse * job.weight[e] + job.bias[e]};
      std::uint16_t bits[float_lanes];
      store_bfloat16(bits, load(value));
      out[e] = bits[0];
    }
  }
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
