// Products of bfloat16 by tiles of 16 rows and 32 terms: AMX, or the same in plain loops. The tile
// instructions come from tiles_*.hpp: configure, zero, load, dot, store.

#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

using Left = std::uint16_t;

inline void to_left(Left* left, const std::uint16_t* values, std::int64_t count) {
  std::memcpy(left, values, static_cast<std::size_t>(count) * sizeof(Left));
}

inline void store_left(Left* left, Floats a) {
  store_bfloat16(left, a);
}

/// c [rows, 32] += left [rows, 32 chunks] times a panel; rows up to the next multiple of 32 are
/// there.
///
/// Two tiles of rows by two of columns: each operand that is loaded is used twice.
inline void product(Engine& engine, const Left* left, std::int64_t left_stride,
                    const std::uint16_t* panel, std::int64_t chunks, float* c,
                    std::int64_t c_stride, std::int64_t rows) {
  constexpr std::int64_t side = 16;
  constexpr std::int64_t width = Panels::width;
  constexpr std::int64_t line = 2 * width * sizeof(std::uint16_t);
  const std::int64_t left_bytes = left_stride * static_cast<std::int64_t>(sizeof(Left));
  const std::int64_t c_bytes = c_stride * static_cast<std::int64_t>(sizeof(float));
  for (std::int64_t row = 0; row < rows; row += 2 * side) {
    const Left* upper = left + row * left_stride;
    const Left* lower = upper + side * left_stride;
    const std::uint16_t* right = panel;
    float* c_upper = c + row * c_stride;
    float* c_lower = c_upper + side * c_stride;
    PYNEURONS_TILE_LOAD(engine, 0, c_upper, c_bytes);
    PYNEURONS_TILE_LOAD(engine, 1, c_upper + side, c_bytes);
    PYNEURONS_TILE_LOAD(engine, 2, c_lower, c_bytes);
    PYNEURONS_TILE_LOAD(engine, 3, c_lower + side, c_bytes);
    for (std::int64_t step = 0; step < chunks; ++step) {
      PYNEURONS_TILE_LOAD(engine, 4, upper, left_bytes);
      PYNEURONS_TILE_STREAM(engine, 6, right, line);
      PYNEURONS_TILE_DOT(engine, 0, 4, 6);
      PYNEURONS_TILE_STREAM(engine, 7, right + width, line);
      PYNEURONS_TILE_DOT(engine, 1, 4, 7);
      PYNEURONS_TILE_LOAD(engine, 5, lower, left_bytes);
      PYNEURONS_TILE_DOT(engine, 2, 5, 6);
      PYNEURONS_TILE_DOT(engine, 3, 5, 7);
      upper += Panels::chunk;
      lower += Panels::chunk;
      right += Panels::chunk * width;
    }
    PYNEURONS_TILE_STORE(engine, 0, c_upper, c_bytes);
    PYNEURONS_TILE_STORE(engine, 1, c_upper + side, c_bytes);
    PYNEURONS_TILE_STORE(engine, 2, c_lower, c_bytes);
    PYNEURONS_TILE_STORE(engine, 3, c_lower + side, c_bytes);
  }
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
