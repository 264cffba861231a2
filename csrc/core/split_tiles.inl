// Split products by tiles of 16 rows and 32 terms: AMX, or the same in plain loops. The tile
// instructions come from tiles_*.hpp.
//
// 32 rows by 32 columns at a time: four tiles of sums, two of rows, two of columns. Each product of
// the small ones shares an operand with the one before it, so that two tiles are loaded for four
// products. Measured on a Sapphire Rapids class processor with AMX (two threads, 2,048 rows; its
// peak on tiles in L1 is 2.8 TFLOP/s a core): 1.8 to 2.0 TFLOP/s a core for weights of two parts,
// at 768 and 3,072 terms.

#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.hpp"
#include "split_parts.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr std::int64_t side = 16;                         // rows and columns of a tile
constexpr std::int64_t pair_rows = 2 * side;              // of one step
constexpr std::int64_t tile_size = side * Panels::chunk;  // elements of bfloat16
constexpr std::int64_t left_size = 3 * 2 * tile_size;     // three parts, upper and lower rows
constexpr std::int64_t right_size = 2 * tile_size;        // left and right columns
constexpr std::int64_t tile_bytes = 2 * Panels::chunk;    // of a row of a tile of rows
constexpr std::int64_t panel_bytes = 4 * Panels::width;   // of a row of a panel
constexpr std::int64_t sum_bytes = 4 * Panels::width;     // of a row of sums
static_assert(LinearSplitJob::block % pair_rows == 0);

/// Terms of `rows` rows in three parts, as tiles: [row pairs][chunks][part 3, 2, 1][upper, lower].
inline void pack_rows(const LinearSplitJob& job, std::int64_t begin, std::int64_t rows,
                      std::int64_t first_chunk, std::int64_t chunks, std::uint16_t* left) {
  const std::int64_t padded = (rows + pair_rows - 1) / pair_rows * pair_rows;
  const std::int64_t terms = job.x.cols - first_chunk * Panels::chunk;
  constexpr std::int64_t ahead = 2;  // rows: halves the time where x lies in memory
  for (std::int64_t row = 0; row < padded; ++row) {
    std::uint16_t* place = left + row / pair_rows * chunks * left_size +
                           row % pair_rows / side * tile_size + row % side * Panels::chunk;
    const float* x = job.x.data + (begin + row) * job.x.row_stride + first_chunk * Panels::chunk;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk, place += left_size) {
      if (row >= rows) {
        for (int part = 0; part < 3; ++part) {
          std::memset(place + 2 * part * tile_size, 0, tile_bytes);
        }
        continue;
      }
      if (row + ahead < rows) {
        const float* later = x + ahead * job.x.row_stride + chunk * Panels::chunk;
        __builtin_prefetch(later);
        __builtin_prefetch(later + side);
      }
      Terms terms_here;
      const float* from =
          whole_chunk(x + chunk * Panels::chunk, terms - chunk * Panels::chunk, terms_here);
      alignas(64) std::uint16_t parts[3][Panels::chunk];
      for (int i = 0; i < Panels::chunk; ++i) {
        float rest = from[i];
        for (int part = 0; part < 3; ++part) {
          std::uint32_t bits;
          std::memcpy(&bits, &rest, sizeof bits);
          parts[part][i] = static_cast<std::uint16_t>(bits >> 16);
          rest -= leading(rest);
        }
      }
      for (int part = 0; part < 3; ++part) {
        std::memcpy(place + 2 * (2 - part) * tile_size, parts[part], tile_bytes);
      }
    }
  }
}

/// What becomes of the sums of 32 rows by 32 columns, taken from the tiles a little later.
struct Sums {
  alignas(64) float sum[pair_rows * Panels::width];
  const float* before;  // sums of the terms before, [32, 32], or null
  float* total;         // where the sums go, [32, 32], or null: to `out`
  float* out;           // rows `out_stride` apart, at most 32 columns
  std::int64_t out_stride;
  std::int64_t rows;  // that there are of `out`
  std::int64_t columns;
  const float* bias;
};

/// Takes rows [begin, end) of what is there.
inline void take(const Sums& sums, std::int64_t begin, std::int64_t end) {
  constexpr int lanes = float_lanes;
  if (sums.total != nullptr) {
    for (std::int64_t i = begin * Panels::width; i < end * Panels::width; i += lanes) {
      const Floats here = load(sums.sum + i);
      store(sums.total + i, sums.before == nullptr ? here : add(load(sums.before + i), here));
    }
    return;
  }
  for (std::int64_t row = begin; row < end && row < sums.rows; ++row) {
    alignas(64) float part[Panels::width];
    float* to = sums.columns == Panels::width ? sums.out + row * sums.out_stride : part;
    for (std::int64_t column = 0; column < Panels::width; column += lanes) {
      const std::int64_t i = row * Panels::width + column;
      const Floats here = load(sums.sum + i);
      const Floats all = sums.before == nullptr ? here : add(load(sums.before + i), here);
      store(to + column, add(all, load(sums.bias + column)));
    }
    if (to == part) {
      std::memcpy(sums.out + row * sums.out_stride, part,
                  static_cast<std::size_t>(sums.columns) * sizeof *part);
    }
  }
}

/// The operands of one chunk: tiles of rows, and a panel's columns of each part of the weight.
struct Operands {
  const std::uint16_t* left;
  const std::uint16_t* right[SplitPanels::most];
};

#define PYNEURONS_LOAD_UPPER(place) PYNEURONS_TILE_STREAM(engine, 4, place, tile_bytes)
#define PYNEURONS_LOAD_LOWER(place) \
  PYNEURONS_TILE_STREAM(engine, 5, (place) + tile_size, tile_bytes)
#define PYNEURONS_LOAD_COLUMNS(place) PYNEURONS_TILE_LOAD(engine, 6, place, panel_bytes)
#define PYNEURONS_LOAD_MORE_COLUMNS(place) \
  PYNEURONS_TILE_LOAD(engine, 7, (place) + Panels::width, panel_bytes)

/// The sums += rows times columns, both loaded here, or one of them, or none.
template <bool load_left, bool load_right>
inline void dots([[maybe_unused]] Engine& engine, const std::uint16_t* left,
                 const std::uint16_t* right) {
  if constexpr (load_left) {
    PYNEURONS_LOAD_UPPER(left);
  }
  if constexpr (load_right) {
    PYNEURONS_LOAD_COLUMNS(right);
  }
  PYNEURONS_TILE_DOT(engine, 0, 4, 6);
  if constexpr (load_right) {
    PYNEURONS_LOAD_MORE_COLUMNS(right);
  }
  PYNEURONS_TILE_DOT(engine, 1, 4, 7);
  if constexpr (load_left) {
    PYNEURONS_LOAD_LOWER(left);
  }
  PYNEURONS_TILE_DOT(engine, 2, 5, 6);
  PYNEURONS_TILE_DOT(engine, 3, 5, 7);
}

/// The small products of a chunk behind x3 w1, whose operands are in the tiles.
template <int parts>
inline void other_small_dots(Engine& engine, const Operands& chunk) {
  const std::uint16_t* x2 = chunk.left + 2 * tile_size;
  const std::uint16_t* x1 = chunk.left + 4 * tile_size;
  dots<true, false>(engine, x2, nullptr);
  if constexpr (parts > 1) {
    dots<false, true>(engine, nullptr, chunk.right[1]);
    dots<true, false>(engine, x1, nullptr);
  }
  if constexpr (parts > 2) {
    dots<false, true>(engine, nullptr, chunk.right[2]);
  }
}

/// Loads what the first product of a block needs.
inline void load_first([[maybe_unused]] Engine& engine, const Operands& chunk) {
  PYNEURONS_LOAD_UPPER(chunk.left);
  PYNEURONS_LOAD_COLUMNS(chunk.right[0]);
  PYNEURONS_LOAD_LOWER(chunk.left);
  PYNEURONS_LOAD_MORE_COLUMNS(chunk.right[0]);
}

/// Stores the finished sums of the block before and begins new ones with x3 w1.
///
/// Tile by tile, behind the loads for it: a load behind a store would wait for all that the store
/// waits for (4 %).
inline void next_sums([[maybe_unused]] Engine& engine, Sums& sums) {
  alignas(64) constexpr float zeros[side] = {};
  PYNEURONS_TILE_STORE(engine, 0, sums.sum, sum_bytes);
  PYNEURONS_TILE_LOAD(engine, 0, zeros, std::int64_t{0});
  PYNEURONS_TILE_DOT(engine, 0, 4, 6);
  PYNEURONS_TILE_STORE(engine, 1, sums.sum + side, sum_bytes);
  PYNEURONS_TILE_LOAD(engine, 1, zeros, std::int64_t{0});
  PYNEURONS_TILE_DOT(engine, 1, 4, 7);
  PYNEURONS_TILE_STORE(engine, 2, sums.sum + side * Panels::width, sum_bytes);
  PYNEURONS_TILE_LOAD(engine, 2, zeros, std::int64_t{0});
  PYNEURONS_TILE_DOT(engine, 2, 5, 6);
  PYNEURONS_TILE_STORE(engine, 3, sums.sum + side * Panels::width + side, sum_bytes);
  PYNEURONS_TILE_LOAD(engine, 3, zeros, std::int64_t{0});
  PYNEURONS_TILE_DOT(engine, 3, 5, 7);
}

/// One after the other: all row pairs, for all blocks of terms, for all panels. The columns of a
/// panel's block of terms, 32 KiB for two parts, stay in L1 while all rows of the job pass.
struct Place {
  std::int64_t panel;
  std::int64_t chunk;  // first one of a block of terms, from the first packed one
  std::int64_t pair;
};

template <int parts>
inline void split_rows(const LinearSplitJob& job, unsigned char* scratch, std::int64_t begin,
                       std::int64_t end) {
  constexpr std::int64_t sum_chunks = LinearSplitJob::sum_chunks;
  constexpr std::int64_t line = 32;  // elements of bfloat16
  // With no tile stored for 128 products the next store costs 270 ns instead of 5: one that
  // nobody reads comes in between (2.1 to 2.7 TFLOP/s, Sapphire Rapids class, AMX).
  constexpr std::int64_t idle_chunks = 4;
  const Panels& shape = job.weight.part[0];
  const std::int64_t rows = end - begin;
  const std::int64_t pairs = (rows + pair_rows - 1) / pair_rows;
  const std::int64_t packed =
      shape.chunks < LinearSplitJob::packed_chunks ? shape.chunks : LinearSplitJob::packed_chunks;
  const bool all_at_once = packed == shape.chunks;
  auto* left = reinterpret_cast<std::uint16_t*>(scratch);
  auto* totals =
      reinterpret_cast<float*>(left + LinearSplitJob::block * 3 * packed * Panels::chunk);
  alignas(64) float unread[side * side];
  Sums sums;
  Engine engine;
  engine.start();
  for (std::int64_t first = 0; first < shape.chunks; first += packed) {
    const std::int64_t here = shape.chunks - first < packed ? shape.chunks - first : packed;
    const bool last_terms = first + here == shape.chunks;
    pack_rows(job, begin, rows, first, here, left);
    const auto operands = [&](const Place& place) {
      Operands chunk;
      chunk.left = left + (place.pair * here + place.chunk) * left_size;
      for (int part = 0; part < parts; ++part) {
        chunk.right[part] = job.weight.part[part].data + place.panel * shape.size +
                            (first + place.chunk) * right_size;
      }
      return chunk;
    };
    sums.before = sums.total = nullptr;
    sums.rows = 0;  // nobody takes what the tiles hold at first
    Place place{0, 0, 0};
    Operands now = operands(place);
    load_first(engine, now);
    while (place.panel < shape.panels) {
      const std::int64_t chunks = here - place.chunk < sum_chunks ? here - place.chunk : sum_chunks;
      Place next_terms{place.panel, place.chunk + chunks, 0};
      if (next_terms.chunk == here) {
        next_terms = {place.panel + 1 < shape.panels ? place.panel + 1 : 0, 0, 0};
      }
      Place next{place.panel, place.chunk, place.pair + 1};
      if (next.pair == pairs) {
        next = {place.chunk + chunks == here ? place.panel + 1 : place.panel, next_terms.chunk, 0};
      }
      const bool end_here = next.panel == shape.panels;
      const Operands then = operands(end_here ? Place{0, 0, 0} : next);
      const Operands soon = operands(next_terms);
      // Lines of the weight that the next block of terms will read, shared among these rows and
      // chunks: from L3 they take longer than a block (8 %). Those of `out` likewise (10 %).
      const std::int64_t lines = (right_size / line + pairs - 1) / pairs;
      const bool out_next = last_terms && !end_here && next.chunk + sum_chunks >= here;
      const float* out_soon = job.out.data + (begin + next.pair * pair_rows) * job.out.row_stride +
                              next.panel * Panels::width;
      const std::int64_t share = (pair_rows + chunks - 1) / chunks;
      const auto besides = [&](std::int64_t chunk) {
        const std::int64_t from = chunk * share;
        const std::int64_t to = from + share < pair_rows ? from + share : pair_rows;
        take(sums, from, to);
        for (int part = 0; part < parts; ++part) {
          const std::uint16_t* weight =
              soon.right[part] + (place.pair * chunks + chunk) * lines * line;
          for (std::int64_t i = 0; i < lines; ++i) {
            __builtin_prefetch(weight + i * line, 0, 2);
          }
        }
        if (out_next) {
          for (std::int64_t row = from; row < to; ++row) {
            if (begin + next.pair * pair_rows + row < end) {
              __builtin_prefetch(out_soon + row * job.out.row_stride, 0, 2);
              __builtin_prefetch(out_soon + row * job.out.row_stride + side, 0, 2);
            }
          }
        }
      };
      const auto at = [&](std::int64_t chunk) {
        Operands moved = now;
        moved.left += chunk * left_size;
        for (int part = 0; part < parts; ++part) {
          moved.right[part] += chunk * right_size;
        }
        return moved;
      };

      next_sums(engine, sums);
      other_small_dots<parts>(engine, now);
      besides(0);
      for (std::int64_t chunk = 1; chunk < chunks; ++chunk) {
        const Operands moved = at(chunk);
        dots<true, true>(engine, moved.left, moved.right[0]);
        other_small_dots<parts>(engine, moved);
        if (chunk % idle_chunks == 0) {
          PYNEURONS_TILE_STORE(engine, 4, unread, tile_bytes);
        }
        besides(chunk);
      }
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        const Operands moved = at(chunk);
        dots<true, true>(engine, moved.left + 4 * tile_size, moved.right[0]);
      }
      load_first(engine, then);

      const bool last = place.chunk + chunks == here;
      float* total = totals + ((all_at_once ? 0 : place.panel) * pairs + place.pair) * pair_rows *
                                  Panels::width;
      sums.before = first + place.chunk == 0 ? nullptr : total;
      sums.total = last && last_terms ? nullptr : total;
      sums.out = job.out.data + (begin + place.pair * pair_rows) * job.out.row_stride +
                 place.panel * Panels::width;
      sums.out_stride = job.out.row_stride;
      sums.rows = rows - place.pair * pair_rows;
      sums.columns = shape.columns - place.panel * Panels::width;
      sums.columns = sums.columns < Panels::width ? sums.columns : Panels::width;
      sums.bias = job.bias + place.panel * Panels::width;
      place = next;
      now = then;
    }
    next_sums(engine, sums);
    take(sums, 0, pair_rows);
  }
  engine.stop();
}

#undef PYNEURONS_LOAD_UPPER
#undef PYNEURONS_LOAD_LOWER
#undef PYNEURONS_LOAD_COLUMNS
#undef PYNEURONS_LOAD_MORE_COLUMNS

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
