// The weights of attention: 2^(scale times score - maximum) of 32 queries. Included once per
// instruction set, behind its products_*.inl.

#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr std::int64_t panel_width = Panels::width;  // queries of a step, rows of a left block
constexpr std::int64_t chunk = Panels::chunk;        // keys of a block of scores
constexpr std::int64_t unit_chunks = 2;              // of keys whose weights are made at a time
constexpr std::int64_t score_block = panel_width * chunk;
constexpr std::int64_t partial_sums = 16;  // of the weights of a query
constexpr int chunk_vectors = static_cast<int>(chunk) / float_lanes;
constexpr int partial_vectors = static_cast<int>(partial_sums) / float_lanes;

/// 2^x; relative error 9e-5, a twentieth of what rounding the weights to bfloat16 may bring; 0
/// below 2^-126, infinite from 2^128 on. All numbers go step by step together: one of them alone
/// would wait for itself.
template <int count>
inline void powers_of_two(Floats* x) {
  Floats part[count];
  Floats value[count];
  for (int i = 0; i < count; ++i) {
    part[i] = above_floor(x[i]);
  }
  for (int i = 0; i < count; ++i) {
    value[i] = fused(broadcast(AttentionJob::coefficients[0]), part[i],
                     broadcast(AttentionJob::coefficients[1]));
  }
  for (int term = 2; term < 4; ++term) {
    for (int i = 0; i < count; ++i) {
      value[i] = fused(value[i], part[i], broadcast(AttentionJob::coefficients[term]));
    }
  }
  for (int i = 0; i < count; ++i) {
    x[i] = times_two_to(value[i], x[i]);
  }
}

inline float power_of_two(float exponent) {
  float lanes[float_lanes];
  Floats power = broadcast(exponent);
  powers_of_two<1>(&power);
  store(lanes, power);
  return lanes[0];
}

/// The state of 32 queries within a block of keys.
struct Queries {
  alignas(64) float maximum[panel_width];                // of the scores times the scale, or nearly
  alignas(64) float partial[panel_width][partial_sums];  // sums of the weights of the block
  alignas(64) float total[panel_width][partial_sums];    // of the blocks before
};

/// Rounded to bfloat16, what a left side is made of.
inline void put_rounded(std::uint16_t* to, Floats first, Floats second) {
  store_bfloat16(to, first, second);
}
inline void put_rounded(float* to, Floats first, Floats second) {
  store(to, round_bfloat16(first));
  store(to + float_lanes, round_bfloat16(second));
}

/// `rows` queries from `row` on, `chunks` blocks of scores: weights, and their sums added to those
/// of the block, or first of all.
///
/// scores   [chunks][32 queries][32 keys]
/// weights  a left side, queries and keys, from the first of these chunks on
template <int rows, int chunks>
inline void weigh_rows(const float* scores, float scale, std::int64_t row, bool fresh,
                       Queries& queries, Left* weights) {
  constexpr int row_vectors = chunks * chunk_vectors;
  constexpr int count = rows * row_vectors;
  Floats x[count];
  Floats against[rows];
  for (int r = 0; r < rows; ++r) {
    against[r] = broadcast(-queries.maximum[row + r]);
  }
  for (int i = 0; i < count; ++i) {
    const std::int64_t query = row + i / row_vectors;
    const int vector = i % row_vectors;
    const float* place = scores + vector / chunk_vectors * score_block + query * chunk;
    x[i] = fused(load(place + vector % chunk_vectors * float_lanes), broadcast(scale),
                 against[i / row_vectors]);
  }
  powers_of_two<count>(x);
  for (int i = 0; i < count; i += 2) {
    const int vector = i % row_vectors;
    Left* place = left_row(weights, AttentionJob::keys / chunk, row + i / row_vectors,
                           vector / chunk_vectors);
    put_rounded(place + vector % chunk_vectors * float_lanes, x[i], x[i + 1]);
  }
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < partial_vectors; ++v) {
      float* place = queries.partial[row + r] + v * float_lanes;
      Floats sum = fresh ? broadcast(0.0F) : load(place);
      for (int part = 0; part < chunks; ++part) {
        const Floats* of_chunk = x + r * row_vectors + part * chunk_vectors + v;
        sum = add(sum, add(of_chunk[0], of_chunk[partial_vectors]));
      }
      store(place, sum);
    }
  }
}

/// What runs between the products: the weights of 32 queries and 32 or 64 keys, two queries a step.
struct Weigher {
  const float* scores;
  Left* weights;
  Queries* queries;
  float scale;
  bool whole;  // 64 keys
  bool fresh;  // the first ones of a block
  std::int64_t row = panel_width;

  void step() {
    if (row < panel_width) {
      if (whole) {
        weigh_rows<2, 2>(scores, scale, row, fresh, *queries, weights);
        row += 2;
      } else {
        half_step();
      }
    }
  }
  [[gnu::noinline]] void half_step() {
    weigh_rows<2, 1>(scores, scale, row, fresh, *queries, weights);
    row += 2;
  }
  void finish() {
    while (row < panel_width) {
      step();
    }
  }
};

/// Keys that come later do not count; the 32 of these scores are the queries' own.
inline void mask_later(float* scores) {
  alignas(64) float key[chunk];
  for (std::int64_t i = 0; i < chunk; ++i) {
    key[i] = static_cast<float>(i);
  }
  for (std::int64_t row = 0; row < panel_width; ++row) {
    const Floats after = broadcast(static_cast<float>(row) + 0.5F);
    for (std::int64_t i = 0; i < chunk; i += float_lanes) {
      float* place = scores + row * chunk + i;
      store(place, where_above(after, load(key + i), load(place), broadcast(-__builtin_inff())));
    }
  }
}

/// Whether a sum of weights of the block is too large, or no number.
inline bool too_large(const float* partial, std::int64_t rows) {
  std::uint32_t found = 0;
  for (int v = 0; v < partial_vectors; ++v) {
    Floats all = broadcast(0.0F);
    for (std::int64_t row = 0; row < rows; ++row) {
      all = add(all, load(partial + row * partial_sums + v * float_lanes));
    }
    found |= positive(subtract(all, broadcast(AttentionJob::most))) | not_finite(all);
  }
  return found != 0;
}

/// The largest score of a query in `keys` keys.
inline float largest_of(const float* scores, std::int64_t row, std::int64_t keys) {
  Floats most = broadcast(-__builtin_inff());
  for (std::int64_t key = 0; key < keys; key += float_lanes) {
    most = larger(load(scores + key / chunk * score_block + row * chunk + key % chunk), most);
  }
  float lanes[float_lanes];
  store(lanes, most);
  for (int i = 1; i < float_lanes; ++i) {
    lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
  }
  return lanes[0];
}

/// Lets the maximum of a query grow to its largest score; returns what its sums so far are
/// multiplied by.
inline float grow(Queries& queries, std::int64_t row, float largest) {
  const float before = queries.maximum[row];
  const float reached = largest > before ? largest : before;
  queries.maximum[row] = reached;
  const float shrink = power_of_two(before - reached);
  for (float& total : queries.total[row]) {
    total *= shrink;
  }
  return shrink;
}

/// Adds the sums of a block to those of the blocks before.
inline void add_partial(Queries& queries) {
  for (std::int64_t row = 0; row < panel_width; ++row) {
    for (int v = 0; v < partial_vectors; ++v) {
      float* total = queries.total[row] + v * float_lanes;
      store(total, add(load(total), load(queries.partial[row] + v * float_lanes)));
    }
  }
}

/// 1 / the sum of all weights of each query: lane i and lane i + 8 first, then i and i + 4.
inline void invert_totals(const Queries& queries, float* inverse) {
  constexpr std::int64_t square = 16;
  for (std::int64_t row = 0; row < panel_width; row += square) {
    alignas(64) std::uint32_t words[square][partial_sums];
    alignas(64) std::uint32_t turned[partial_sums][square];
    alignas(64) float sums[partial_sums][square];
    std::memcpy(words, queries.total[row], sizeof words);
    transpose(words[0], partial_sums, turned[0], square);
    std::memcpy(sums, turned, sizeof sums);
    for (std::int64_t lane = 0; lane < square; lane += float_lanes) {
      for (std::int64_t half = partial_sums / 2; half > 0; half /= 2) {
        for (std::int64_t i = 0; i < half; ++i) {
          store(sums[i] + lane, add(load(sums[i] + lane), load(sums[i + half] + lane)));
        }
      }
      store(inverse + row + lane, divide(broadcast(1.0F), load(sums[0] + lane)));
    }
  }
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
