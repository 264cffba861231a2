// Products of bfloat16 by fused multiply-adds in f32, in AMX's order of sums.

#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.hpp"
#include "live_pairs.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

using Left = float;                 // what stands on the left, widened once
constexpr double dense_from = 0.5;  // share of live pairs

inline void to_left(Left* left, const std::uint16_t* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    left[i] = from_bfloat16(values[i]);
  }
}

struct Engine {  // nothing to set up
  void start() {}
  void stop() {}
};

template <int rows>
inline void rows_by_panel(const Left* left, std::int64_t left_stride, const std::uint16_t* panel,
                          std::int64_t chunks, float* c, std::int64_t c_stride) {
  constexpr std::int64_t width = Panels::width;
  constexpr std::int64_t chunk = Panels::chunk;
  for (std::int64_t column = 0; column < width; column += product_vectors * float_lanes) {
    const Left* factors = left;
    const std::uint16_t* right = panel + 2 * column;
    for (std::int64_t step = 0; step < chunks; ++step, factors += chunk) {
      Floats even[rows][product_vectors];
      Floats odd[rows][product_vectors];
      for (int r = 0; r < rows; ++r) {
        for (int v = 0; v < product_vectors; ++v) {
          even[r][v] = odd[r][v] = broadcast(0.0F);
        }
      }
      for (int term = 0; term < chunk; term += 2, right += 2 * width) {
        for (int v = 0; v < product_vectors; ++v) {
          Floats first;
          Floats second;
          load_pairs(right + 2 * v * float_lanes, first, second);
          for (int r = 0; r < rows; ++r) {
            const Left* factor = factors + r * left_stride + term;
            even[r][v] = fused(broadcast(factor[0]), first, even[r][v]);
            odd[r][v] = fused(broadcast(factor[1]), second, odd[r][v]);
          }
        }
      }
      for (int r = 0; r < rows; ++r) {
        for (int v = 0; v < product_vectors; ++v) {
          float* here = c + r * c_stride + column + v * float_lanes;
          store(here, add(load(here), add(even[r][v], odd[r][v])));
        }
      }
    }
  }
}

/// c [rows, 32] += left [rows, 32 chunks] times a panel; an even number of rows is there. Even and
/// odd terms have chains of their own within a chunk.
inline void product(Engine& /*engine*/, const Left* left, std::int64_t left_stride,
                    const std::uint16_t* panel, std::int64_t chunks, float* c,
                    std::int64_t c_stride, std::int64_t rows) {
  std::int64_t row = 0;
  for (; row + product_rows <= rows; row += product_rows) {
    rows_by_panel<product_rows>(left + row * left_stride, left_stride, panel, chunks,
                                c + row * c_stride, c_stride);
  }
  for (; row < rows; row += 2) {
    rows_by_panel<2>(left + row * left_stride, left_stride, panel, chunks, c + row * c_stride,
                     c_stride);
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
