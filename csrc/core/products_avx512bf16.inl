// Products of bfloat16 by VDPBF16PS, in its order of sums: of each pair the second term, then the
// first, each by a fused multiply-add, in one chain over all pairs.

#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.hpp"

#if !defined(__AVX512BF16__)
#  error "this file is compiled with the flags of avx512bf16"
#endif

namespace pyneurons::PYNEURONS_ISA {
namespace {

using Left = std::uint16_t;
constexpr std::int64_t dot_rows = 12;  // 24 sums, 2 operands, 1 factor: 27 of 32 registers
constexpr double dense_from = 0.5;     // share of live pairs

inline void to_left(Left* left, const std::uint16_t* values, std::int64_t count) {
  std::memcpy(left, values, static_cast<std::size_t>(count) * sizeof(Left));
}

struct Engine {  // nothing to set up
  void start() {}
  void stop() {}
};

inline std::uint32_t pair_at(const Left* values) {
  std::uint32_t pair;
  std::memcpy(&pair, values, sizeof pair);
  return pair;
}

/// a + both products of each pair; every lane of `left` has the same pair.
inline Floats dot(Floats a, std::uint32_t left, __m512i right) {
  return _mm512_dpbf16_ps(a, (__m512bh)_mm512_set1_epi32(static_cast<int>(left)), (__m512bh)right);
}

template <int rows>
inline void dot_rows_by_panel(const Left* left, std::int64_t left_stride,
                              const std::uint16_t* panel, std::int64_t chunks, float* c,
                              std::int64_t c_stride) {
  constexpr std::int64_t width = Panels::width;
  Floats sum[rows][2];
  for (int r = 0; r < rows; ++r) {
    sum[r][0] = load(c + r * c_stride);
    sum[r][1] = load(c + r * c_stride + float_lanes);
  }
  for (std::int64_t term = 0; term < chunks * Panels::chunk; term += 2) {
    const __m512i first = _mm512_loadu_si512(panel + term * width);
    const __m512i second = _mm512_loadu_si512(panel + term * width + width);
    for (int r = 0; r < rows; ++r) {
      const std::uint32_t pair = pair_at(left + r * left_stride + term);
      sum[r][0] = dot(sum[r][0], pair, first);
      sum[r][1] = dot(sum[r][1], pair, second);
    }
  }
  for (int r = 0; r < rows; ++r) {
    store(c + r * c_stride, sum[r][0]);
    store(c + r * c_stride + float_lanes, sum[r][1]);
  }
}

/// c [rows, 32] += left [rows, 32 chunks] times a panel; rows up to the next multiple of 4 are
/// there.
inline void product(Engine& /*engine*/, const Left* left, std::int64_t left_stride,
                    const std::uint16_t* panel, std::int64_t chunks, float* c,
                    std::int64_t c_stride, std::int64_t rows) {
  std::int64_t row = 0;
  for (; row + dot_rows <= rows; row += dot_rows) {
    dot_rows_by_panel<dot_rows>(left + row * left_stride, left_stride, panel, chunks,
                                c + row * c_stride, c_stride);
  }
  for (; row < rows; row += 4) {
    dot_rows_by_panel<4>(left + row * left_stride, left_stride, panel, chunks, c + row * c_stride,
                         c_stride);
  }
}

/// c[0 .. vectors * 16) += the live pairs of a row times the columns from `right` on. A pair of
/// zeros adds nothing, so that leaving it out changes no bit.
template <int vectors>
inline void add_live(const LivePair* live, const LivePair* end, const std::uint16_t* right,
                     std::int64_t panel_size, float* c, std::int64_t c_panel) {
  constexpr std::int64_t width = Panels::width;
  Floats sum[vectors];
  for (int v = 0; v < vectors; ++v) {
    sum[v] = load(c + v * float_lanes / width * c_panel + v * float_lanes % width);
  }
  for (; live != end; ++live) {
    const std::uint16_t* place = right + 2 * width * live->pair;
    for (int v = 0; v < vectors; ++v) {
      const std::int64_t column = v * float_lanes;
      sum[v] = dot(sum[v], live->values,
                   _mm512_loadu_si512(place + column / width * panel_size + 2 * (column % width)));
    }
  }
  for (int v = 0; v < vectors; ++v) {
    store(c + v * float_lanes / width * c_panel + v * float_lanes % width, sum[v]);
  }
}

/// Where the terms from a whole chunk on begin in a block of 32 rows, [32][32 chunks].
inline Left* left_chunk(Left* block, std::int64_t chunk) {
  return block + chunk * Panels::chunk;
}

/// Where 32 terms, a whole chunk, of one of the 32 rows of a block stand.
inline Left* left_row(Left* block, std::int64_t chunks, std::int64_t row, std::int64_t chunk) {
  return block + (row * chunks + chunk) * Panels::chunk;
}

/// Writes 32 terms, a whole chunk, of one of the 32 rows of a block.
inline void put_left(Left* block, std::int64_t chunks, std::int64_t row, std::int64_t chunk,
                     const std::uint16_t* terms) {
  to_left(left_row(block, chunks, row, chunk), terms, Panels::chunk);
}

/// c_out [32, 32] = c_in, or zeros, + the first `steps` chunks from `left` on times a panel.
inline void multiply_rows(Engine& engine, const Left* left, std::int64_t chunks,
                          const std::uint16_t* panel, std::int64_t steps, const float* c_in,
                          float* c_out) {
  constexpr std::int64_t rows = 32;
  if (c_in == nullptr) {
    std::memset(c_out, 0, rows * Panels::width * sizeof *c_out);
  } else if (c_in != c_out) {
    std::memcpy(c_out, c_in, rows * Panels::width * sizeof *c_out);
  }
  product(engine, left, chunks * Panels::chunk, panel, steps, c_out, Panels::width, rows);
}

/// What runs between products: nothing.
struct Nothing {
  void step() {}
};

/// Sums that are not in their place yet: none, here.
struct Waiting {};

inline void store_sums(Engine& /*engine*/, Waiting& /*waiting*/) {}

/// The same; `between` runs where there are gaps between products: nowhere, here.
template <typename Between>
inline void multiply_rows(Engine& engine, const Left* left, std::int64_t chunks,
                          const std::uint16_t* panel, std::int64_t steps, const float* c_in,
                          float* c_out, Waiting& /*waiting*/, Between& /*between*/) {
  multiply_rows(engine, left, chunks, panel, steps, c_in, c_out);
}

/// Rows as left sides, zeros behind the last row and term.
inline void pack_rows(MatrixView<const std::uint16_t> x, std::int64_t begin, std::int64_t end,
                      std::int64_t chunks, Left* left) {
  constexpr std::int64_t rows = 32;
  for (std::int64_t top = begin; top < end; top += rows, left += rows * chunks * Panels::chunk) {
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        std::uint16_t terms[Panels::chunk] = {};
        for (std::int64_t i = 0; i < Panels::chunk && top + row < end; ++i) {
          const std::int64_t term = chunk * Panels::chunk + i;
          terms[i] = term < x.cols ? x.data[(top + row) * x.row_stride + term] : 0;
        }
        put_left(left, chunks, row, chunk, terms);
      }
    }
  }
}

/// x, all terms, times `count` panels from `first` on: each block of 32 rows by 32 columns is
/// handed to the reader.
template <typename Reader>
inline void multiply_panels(Engine& engine, const Left* x, const Panels& weight, std::int64_t first,
                            std::int64_t count, std::int64_t blocks, float* /*waiting*/,
                            float* finished, Reader& reader) {
  for (std::int64_t panel = 0; panel < count; ++panel) {
    for (std::int64_t block = 0; block < blocks; ++block) {
      multiply_rows(engine, x + block * 32 * weight.chunks * Panels::chunk, weight.chunks,
                    weight.data + (first + panel) * weight.size, weight.chunks, nullptr, finished);
      reader.take(finished, panel, block);
      reader.finish();
    }
  }
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
