// Products of bfloat16 by blocks of 32 rows, 32 columns: two tiles by two, so that each operand
// that is loaded is used twice. Included behind tiles_*.hpp.

#pragma once

#include <cstdint>

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr std::int64_t side = 16;                   // rows of a tile
constexpr std::int64_t block_rows = 32;             // rows of a block of c, and its columns
constexpr std::int64_t tile_size = 512;             // bfloat16 of a tile: 16 rows, 32 terms
constexpr std::int64_t chunk_size = 2 * tile_size;  // of one step, on either side
constexpr std::int64_t block_size = block_rows * Panels::width;

/// Steps whose right side, 32 KiB at most, stays in L1 while all rows pass by.
constexpr std::int64_t most_part_steps = 16;

/// What runs between the products of a block: nothing.
struct Nothing {
  void step() {}
};

/// c_out [32, 32] = c_in + left times right, over `steps` chunks of terms.
///
/// left   [chunks][2][16][32]: each tile one KiB on end
/// right  a panel, from its first chunk on
/// live   which chunks, ascending; null: all of them, 0 to steps - 1
/// c_in   rows of 32, or null: zeros; c_out may be c_in
///
/// Between the products run `between.step()` and requests for `lines` lines a step from `ahead` on,
/// into L2, and for the block of sums behind c_in, which is the next to be read (Sapphire Rapids
/// class, 2 threads, 768 x 3072: 2.5 to 3.1 TFLOP/s): vector units and memory have time then. What
/// streams by is loaded with the hint that it will not be needed soon, so that it does not drive
/// the right side out of L1.
template <typename Between>
inline void multiply_block(Engine& engine, const std::uint16_t* left, const std::uint16_t* right,
                           const std::uint16_t* live, std::int64_t steps, const float* c_in,
                           float* c_out, const std::uint16_t* ahead, int lines, Between& between) {
  constexpr std::int64_t line = 64;
  constexpr std::int64_t right_line = 2 * line;
  constexpr std::int64_t c_line = block_rows * sizeof(float);
  constexpr std::int64_t lower = side * block_rows;
  if (c_in == nullptr) {
    PYNEURONS_TILE_ZERO(engine, 0);
    PYNEURONS_TILE_ZERO(engine, 1);
    PYNEURONS_TILE_ZERO(engine, 2);
    PYNEURONS_TILE_ZERO(engine, 3);
  } else {
    PYNEURONS_TILE_LOAD(engine, 0, c_in, c_line);
    PYNEURONS_TILE_LOAD(engine, 1, c_in + side, c_line);
    PYNEURONS_TILE_LOAD(engine, 2, c_in + lower, c_line);
    PYNEURONS_TILE_LOAD(engine, 3, c_in + lower + side, c_line);
  }
  constexpr std::int64_t c_lines = block_size * sizeof(float) / line;
  const std::int64_t c_lines_of_step =
      c_in == nullptr || steps == 0 ? 0 : (c_lines + steps - 1) / steps;
  const float* next = c_in == nullptr ? nullptr : c_in + block_size;
  for (std::int64_t step = 0; step < steps; ++step) {
    const std::int64_t place = (live == nullptr ? step : live[step]) * chunk_size;
    PYNEURONS_TILE_STREAM(engine, 4, left + place, line);
    PYNEURONS_TILE_LOAD(engine, 6, right + place, right_line);
    PYNEURONS_TILE_DOT(engine, 0, 4, 6);
    PYNEURONS_TILE_LOAD(engine, 7, right + place + Panels::width, right_line);
    PYNEURONS_TILE_DOT(engine, 1, 4, 7);
    PYNEURONS_TILE_STREAM(engine, 5, left + place + tile_size, line);
    PYNEURONS_TILE_DOT(engine, 2, 5, 6);
    PYNEURONS_TILE_DOT(engine, 3, 5, 7);
    between.step();
    for (std::int64_t i = 0; i < c_lines_of_step; ++i, next += line / sizeof(float)) {
      __builtin_prefetch(next, 1, 2);
    }
    for (int i = 0; i < lines; ++i, ahead += line / 2) {
      __builtin_prefetch(ahead, 0, 2);
    }
  }
  PYNEURONS_TILE_STORE(engine, 0, c_out, c_line);
  PYNEURONS_TILE_STORE(engine, 1, c_out + side, c_line);
  PYNEURONS_TILE_STORE(engine, 2, c_out + lower, c_line);
  PYNEURONS_TILE_STORE(engine, 3, c_out + lower + side, c_line);
}

/// What stands on the left: blocks of 32 rows, [blocks][chunks][2][16][32].
using Left = std::uint16_t;

/// Where the terms from a whole chunk on begin in a block of `chunks` chunks.
inline Left* left_chunk(Left* block, std::int64_t chunk) {
  return block + chunk * chunk_size;
}

/// Where 32 terms, a whole chunk, of one of the 32 rows of a block stand.
inline Left* left_row(Left* block, std::int64_t /*chunks*/, std::int64_t row, std::int64_t chunk) {
  return left_chunk(block, chunk) + row * Panels::chunk;
}

/// Sums in the tiles 0 to 3 that are still to be stored.
struct Waiting {
  float* place = nullptr;  // [32, 32], or null: none
};

inline void store_sums(Engine& engine, Waiting& waiting) {
  constexpr std::int64_t line = block_rows * sizeof(float);
  float* place = waiting.place;
  if (place != nullptr) {
    PYNEURONS_TILE_STORE(engine, 0, place, line);
    PYNEURONS_TILE_STORE(engine, 1, place + side, line);
    PYNEURONS_TILE_STORE(engine, 2, place + side * block_rows, line);
    PYNEURONS_TILE_STORE(engine, 3, place + side * block_rows + side, line);
  }
  waiting.place = nullptr;
}

/// c_out [32, 32] = c_in, or zeros, + the first `steps` chunks from `left` on times a panel; c_out
/// itself is written by the next call, or by `store_sums`.
///
/// A tile is stored as slowly as two are multiplied, 16 cycles, but beside other products; in a row
/// stores fill the queue that products wait behind (Sapphire Rapids class, two chunks: 4.6 instead
/// of 6.9 ns a product). So each sum is stored just before its tile is needed again. Twice a step
/// runs `between.step()`. A function of its own, so that both together have all registers.
template <typename Between>
[[gnu::noinline]] void multiply_rows(Engine& engine, const Left* left, std::int64_t /*chunks*/,
                                     const std::uint16_t* panel, std::int64_t steps,
                                     const float* c_in, float* c_out, Waiting& waiting,
                                     Between& between) {
  constexpr std::int64_t line = 64;
  constexpr std::int64_t right_line = 2 * line;
  constexpr std::int64_t c_line = block_rows * sizeof(float);
  constexpr std::int64_t lower = side * block_rows;
  float* place = waiting.place;
  waiting.place = c_out;
#define PYNEURONS_NEXT_SUM(tile, offset)                        \
  if (place != nullptr) {                                       \
    PYNEURONS_TILE_STORE(engine, tile, place + offset, c_line); \
  }                                                             \
  if (c_in == nullptr) {                                        \
    PYNEURONS_TILE_ZERO(engine, tile);                          \
  } else {                                                      \
    PYNEURONS_TILE_LOAD(engine, tile, c_in + offset, c_line);   \
  }
  PYNEURONS_TILE_LOAD(engine, 4, left, line);
  PYNEURONS_TILE_STREAM(engine, 6, panel, right_line);
  PYNEURONS_NEXT_SUM(0, 0)
  PYNEURONS_TILE_DOT(engine, 0, 4, 6);
  PYNEURONS_TILE_STREAM(engine, 7, panel + Panels::width, right_line);
  PYNEURONS_NEXT_SUM(1, side)
  PYNEURONS_TILE_DOT(engine, 1, 4, 7);
  between.step();
  PYNEURONS_TILE_LOAD(engine, 5, left + tile_size, line);
  PYNEURONS_NEXT_SUM(2, lower)
  PYNEURONS_TILE_DOT(engine, 2, 5, 6);
  PYNEURONS_NEXT_SUM(3, lower + side)
  PYNEURONS_TILE_DOT(engine, 3, 5, 7);
  between.step();
#undef PYNEURONS_NEXT_SUM
  for (std::int64_t step = 1; step < steps; ++step) {
    left += chunk_size;
    panel += chunk_size;
    PYNEURONS_TILE_LOAD(engine, 4, left, line);
    PYNEURONS_TILE_STREAM(engine, 6, panel, right_line);
    PYNEURONS_TILE_DOT(engine, 0, 4, 6);
    PYNEURONS_TILE_STREAM(engine, 7, panel + Panels::width, right_line);
    PYNEURONS_TILE_DOT(engine, 1, 4, 7);
    between.step();
    PYNEURONS_TILE_LOAD(engine, 5, left + tile_size, line);
    PYNEURONS_TILE_DOT(engine, 2, 5, 6);
    PYNEURONS_TILE_DOT(engine, 3, 5, 7);
    between.step();
  }
}

/// Rows as tiles, [blocks of 32 rows][chunks][2][16][32], zeros behind the last row and term.
inline void pack_rows(MatrixView<const std::uint16_t> x, std::int64_t begin, std::int64_t end,
                      std::int64_t chunks, std::uint16_t* tiles) {
  constexpr std::size_t line = Panels::chunk * sizeof(std::uint16_t);
  const std::int64_t whole = x.cols / Panels::chunk;
  const std::int64_t rest = x.cols % Panels::chunk;
  for (std::int64_t top = begin; top < end; top += block_rows) {
    for (std::int64_t half = 0; half < 2; ++half) {
      const std::int64_t first = top + half * side;
      const std::int64_t there = end - first < side ? end - first : side;
      std::uint16_t* place =
          tiles + (top - begin) / block_rows * chunks * chunk_size + half * tile_size;
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk, place += chunk_size) {
        const std::uint16_t* terms = x.data + first * x.row_stride + chunk * Panels::chunk;
        for (std::int64_t row = 0; row < side; ++row) {
          std::uint16_t* to = place + row * Panels::chunk;
          if (row < there && chunk < whole) {
            std::memcpy(to, terms + row * x.row_stride, line);
            continue;
          }
          std::memset(to, 0, line);
          for (std::int64_t term = 0; row < there && term < rest; ++term) {
            to[term] = terms[row * x.row_stride + term];
          }
        }
      }
    }
  }
}

/// How the steps of a sum are cut into parts of about equal length.
struct Parts {
  std::int64_t steps;
  std::int64_t number;
  std::int64_t size;

  explicit Parts(std::int64_t all) : steps(all) {
    number = (all + most_part_steps - 1) / most_part_steps;
    size = (all + number - 1) / number;
  }
  std::int64_t begin(std::int64_t part) const { return part * size < steps ? part * size : steps; }
};

/// Lines a step that ask for the right side of the next part while `blocks` blocks of rows pass by.
inline int lines_ahead(std::int64_t blocks) {
  constexpr std::int64_t chunk_lines = 32;
  const std::int64_t lines = (chunk_lines + blocks - 1) / blocks;
  return static_cast<int>(lines < 4 ? lines : 4);
}

/// x, all terms, times `count` panels from `first` on: each block of 32 rows by 32 columns is
/// handed to the reader, which has until the next one but one to read it.
///
/// waiting   [blocks][32][32]: sums over the parts of the terms before the last
/// finished  [2][32][32]
template <typename Reader>
inline void multiply_panels(Engine& engine, const Left* x, const Panels& weight, std::int64_t first,
                            std::int64_t count, std::int64_t blocks, float* waiting,
                            float* finished, Reader& reader) {
  const Parts parts(weight.chunks);
  const int lines = lines_ahead(blocks);
  std::int64_t turn = 0;
  for (std::int64_t panel = 0; panel < count; ++panel) {
    const std::uint16_t* data = weight.data + (first + panel) * weight.size;
    for (std::int64_t part = 0; part < parts.number; ++part) {
      const std::int64_t step = parts.begin(part);
      const std::int64_t steps = parts.begin(part + 1) - step;
      const bool last = part + 1 == parts.number;
      const std::uint16_t* right = data + step * chunk_size;
      const std::uint16_t* ahead = right + steps * chunk_size;
      for (std::int64_t block = 0; block < blocks; ++block) {
        float* sums = waiting + block * block_size;
        float* out = last ? finished + turn % 2 * block_size : sums;
        multiply_block(engine, x + (block * weight.chunks + step) * chunk_size, right, nullptr,
                       steps, part == 0 ? nullptr : sums, out, ahead, lines, reader);
        ahead += lines * steps * 32;
        if (last) {
          reader.finish();
          reader.take(out, panel, block, steps);
          ++turn;
        }
      }
    }
  }
  reader.finish();
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
