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

/// From this number of blocks down 4 lines of weights are asked for at a step, above it 2: a step's
/// weights are 32 lines.
constexpr std::int64_t few_blocks = 8;

/// c_out [32, 32] = c_in + left times right, over `steps` chunks of terms.
///
/// left   [chunks][2][16][32]: each tile one KiB on end
/// right  a panel, from its first chunk on
/// c_in   rows of 32, or null: zeros; c_out may be c_in
///
/// What streams by is loaded with the hint that it will not be needed soon, so that it does not
/// drive the right side out of L1.
inline void multiply_block([[maybe_unused]] Engine& engine, const std::uint16_t* left,
                           const std::uint16_t* right, std::int64_t steps, const float* c_in,
                           float* c_out) {
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
  for (std::int64_t step = 0; step < steps; ++step) {
    const std::int64_t place = step * chunk_size;
    PYNEURONS_TILE_STREAM(engine, 4, left + place, line);
    PYNEURONS_TILE_LOAD(engine, 6, right + place, right_line);
    PYNEURONS_TILE_DOT(engine, 0, 4, 6);
    PYNEURONS_TILE_LOAD(engine, 7, right + place + Panels::width, right_line);
    PYNEURONS_TILE_DOT(engine, 1, 4, 7);
    PYNEURONS_TILE_STREAM(engine, 5, left + place + tile_size, line);
    PYNEURONS_TILE_DOT(engine, 2, 5, 6);
    PYNEURONS_TILE_DOT(engine, 3, 5, 7);
  }
  PYNEURONS_TILE_STORE(engine, 0, c_out, c_line);
  PYNEURONS_TILE_STORE(engine, 1, c_out + side, c_line);
  PYNEURONS_TILE_STORE(engine, 2, c_out + lower, c_line);
  PYNEURONS_TILE_STORE(engine, 3, c_out + lower + side, c_line);
}

/// What runs between the products of a block: nothing.
struct Nothing {
  void step() {}
};

/// Blocks one behind the other, each as `multiply_block`, their sums stored one block late.
///
/// The tiles of a block are stored between the first products of the next one, whose operands are
/// loaded by then: a load behind a store would wait for what the store waits for (Sapphire Rapids
/// class, one core, 768 terms: 6 %). So what `between` reads is what `multiply` wrote one call ago.
///
/// In the loop over steps counts are constants and no state is larger than the registers: what is
/// spilled is loaded again behind stores of tiles (20 %).
///
/// lines  of the weights to come that are asked for at a step, a constant: 2 or 4
template <int lines>
struct Chain {
  Engine& engine;
  float* spare;         // [32, 32]: for tiles that nobody reads
  float* held = spare;  // where the sums go that the tiles hold

  /// c_out [32, 32] = c_in + left times right, as above.
  ///
  /// live   which chunks, ascending; null: all of them, 0 to steps - 1
  /// ahead  weights to come, into L2; left where the next call goes on
  ///
  /// At each step but the first run `between.step()` and requests for the weights and for the block
  /// of sums behind c_in, which is the next to be read: vector units and memory have time then
  /// (Sapphire Rapids class, 2 threads, 768 x 3072: 2.5 to 3.1 TFLOP/s).
  template <typename Between>
  [[gnu::always_inline]] inline void multiply(const std::uint16_t* left, const std::uint16_t* right,
                                              const std::uint16_t* live, std::int64_t steps,
                                              const float* c_in, float* c_out,
                                              const std::uint16_t*& ahead, Between& between) {
    if (steps == 0) {
      finish();
      if (c_in == nullptr) {
        std::memset(c_out, 0, block_size * sizeof *c_out);
      } else if (c_in != c_out) {
        std::memcpy(c_out, c_in, block_size * sizeof *c_out);
      }
      return;
    }
    const float* next = c_in == nullptr ? nullptr : c_in + block_size;
    const std::int64_t first = live == nullptr ? 0 : live[0] * chunk_size;
    PYNEURONS_TILE_STREAM(engine, 4, left + first, line);
    PYNEURONS_TILE_LOAD(engine, 6, right + first, right_line);
    PYNEURONS_TILE_LOAD(engine, 7, right + first + Panels::width, right_line);
    PYNEURONS_TILE_STREAM(engine, 5, left + first + tile_size, line);
    if (c_in == nullptr) {
      PYNEURONS_TILE_STORE(engine, 0, held, c_line);
      PYNEURONS_TILE_ZERO(engine, 0);
      PYNEURONS_TILE_DOT(engine, 0, 4, 6);
      PYNEURONS_TILE_STORE(engine, 1, held + side, c_line);
      PYNEURONS_TILE_ZERO(engine, 1);
      PYNEURONS_TILE_DOT(engine, 1, 4, 7);
      PYNEURONS_TILE_STORE(engine, 2, held + lower, c_line);
      PYNEURONS_TILE_ZERO(engine, 2);
      PYNEURONS_TILE_DOT(engine, 2, 5, 6);
      PYNEURONS_TILE_STORE(engine, 3, held + lower + side, c_line);
      PYNEURONS_TILE_ZERO(engine, 3);
      PYNEURONS_TILE_DOT(engine, 3, 5, 7);
    } else {
      PYNEURONS_TILE_STORE(engine, 0, held, c_line);
      PYNEURONS_TILE_LOAD(engine, 0, c_in, c_line);
      PYNEURONS_TILE_DOT(engine, 0, 4, 6);
      PYNEURONS_TILE_STORE(engine, 1, held + side, c_line);
      PYNEURONS_TILE_LOAD(engine, 1, c_in + side, c_line);
      PYNEURONS_TILE_DOT(engine, 1, 4, 7);
      PYNEURONS_TILE_STORE(engine, 2, held + lower, c_line);
      PYNEURONS_TILE_LOAD(engine, 2, c_in + lower, c_line);
      PYNEURONS_TILE_DOT(engine, 2, 5, 6);
      PYNEURONS_TILE_STORE(engine, 3, held + lower + side, c_line);
      PYNEURONS_TILE_LOAD(engine, 3, c_in + lower + side, c_line);
      PYNEURONS_TILE_DOT(engine, 3, 5, 7);
    }
    held = c_out;
    for (std::int64_t step = 1; step < steps; ++step) {
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
      if (c_in != nullptr) {
        for (int i = 0; i < c_lines; ++i) {
          __builtin_prefetch(next + i * (line / 4), 1, 3);
        }
        next += c_lines * (line / 4);
      }
      for (int i = 0; i < lines; ++i, ahead += line / 2) {
        __builtin_prefetch(ahead, 0, 2);
      }
    }
  }

  /// Stores what the tiles hold.
  void finish() {
    PYNEURONS_TILE_STORE(engine, 0, held, c_line);
    PYNEURONS_TILE_STORE(engine, 1, held + side, c_line);
    PYNEURONS_TILE_STORE(engine, 2, held + lower, c_line);
    PYNEURONS_TILE_STORE(engine, 3, held + lower + side, c_line);
    held = spare;
  }

 private:
  static constexpr std::int64_t line = 64;
  static constexpr std::int64_t right_line = 2 * line;
  static constexpr std::int64_t c_line = block_rows * sizeof(float);
  static constexpr std::int64_t lower = side * block_rows;
  static constexpr int c_lines = 6;  // of 64, a step: a block has 11 steps that ask, or more
};

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

inline void store_sums([[maybe_unused]] Engine& engine, Waiting& waiting) {
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
[[gnu::noinline]] void multiply_rows([[maybe_unused]] Engine& engine, const Left* left,
                                     std::int64_t /*chunks*/, const std::uint16_t* panel,
                                     std::int64_t steps, const float* c_in, float* c_out,
                                     Waiting& waiting, Between& between) {
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

/// x, all terms, times `count` panels from `first` on: each block of 32 rows by 32 columns is
/// handed to the reader, which has until the next one but one to read it.
///
/// waiting   [blocks][32][32]: sums over the parts of the terms before the last
/// finished  [3][32][32]
template <int lines, typename Reader>
[[gnu::always_inline]] inline void multiply_panels_by_lines(Engine& engine, const Left* x,
                                                            const Panels& weight,
                                                            std::int64_t first, std::int64_t count,
                                                            std::int64_t blocks, float* waiting,
                                                            float* finished, Reader& reader) {
  const Parts parts(weight.chunks);
  Chain<lines> chain{engine, finished + 2 * block_size};
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
        chain.multiply(x + (block * weight.chunks + step) * chunk_size, right, nullptr, steps,
                       part == 0 ? nullptr : sums, out, ahead, reader);
        if (last) {
          reader.finish();
          reader.take(out, panel, block);
          ++turn;
        }
      }
    }
  }
  chain.finish();
  reader.finish();
}

/// As above, with as many lines as bring a part of the weights while the blocks pass by.
template <typename Reader>
inline void multiply_panels(Engine& engine, const Left* x, const Panels& weight, std::int64_t first,
                            std::int64_t count, std::int64_t blocks, float* waiting,
                            float* finished, Reader& reader) {
  if (blocks > few_blocks) {
    multiply_panels_by_lines<2>(engine, x, weight, first, count, blocks, waiting, finished, reader);
  } else {
    multiply_panels_by_lines<4>(engine, x, weight, first, count, blocks, waiting, finished, reader);
  }
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
