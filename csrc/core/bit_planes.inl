// Vertical counters: how often each bit of a mask row is set, kept as one bit plane per power of
// two. Included once per instruction set, behind its simd_*.hpp.

#pragma once

#include <cstdint>

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr int plane_count = 16;
constexpr std::int64_t plane_capacity = (std::int64_t{1} << plane_count) - 1;
constexpr std::int64_t tile_rows = 16;

/// Room of a vector: its planes, then for each a carry that waits for a second one.
constexpr int plane_slots = 2 * plane_count;

constexpr std::int64_t least(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

/// Bits of a number, that is planes of a counter that goes up to it.
inline int bit_length(std::int64_t value) {
  return value == 0 ? 0 : 64 - __builtin_clzll(static_cast<unsigned long long>(value));
}

inline std::int64_t row_id(const RowSource& rows, std::int64_t i) {
  return rows.order == nullptr ? i : rows.order[i];
}

inline const std::uint32_t* row_words(const RowSource& rows, std::int64_t i, WordRange words) {
  return rows.mask.data + row_id(rows, i) * rows.mask.row_stride + words.begin;
}

/// Finds the rows of an order and asks for them ahead of their use; also for rows in order, where
/// the processor sees the pattern by itself, but too late (Zen 4, one core: 18 against 11 GB/s).
struct Prefetcher {
  static constexpr std::int64_t ahead = 48;
  static constexpr std::int64_t held = 64;

  const RowSource* rows;
  WordRange words;
  std::int64_t next;  // rows before it have been asked for
  const std::uint32_t* found[held];

  /// Asks for the rows up to `ahead` behind i.
  void reach(std::int64_t i) {
    constexpr std::uintptr_t line = 64;
    const std::int64_t width = words.end - words.begin;
    for (const std::int64_t end = least(i + ahead, rows->length); next < end; ++next) {
      const std::uint32_t* row = row_words(*rows, next, words);
      found[next % held] = row;
      const std::uintptr_t row_end = reinterpret_cast<std::uintptr_t>(row + width);
      for (std::uintptr_t place = reinterpret_cast<std::uintptr_t>(row) & ~(line - 1);
           place < row_end; place += line) {
        // Into L2: the few misses that L1 can wait for at once are half as fast (Zen 4, rows of
        // 128 bytes: 6.2 against 3.5 GB/s, on one core).
        __builtin_prefetch(reinterpret_cast<const char*>(place), 0, 2);
      }
    }
  }

  /// A row that `reach` has asked for, no more than `ahead` before the last one.
  const std::uint32_t* row(std::int64_t i) const { return found[i % held]; }
};

template <bool full>
inline Vec load_words(const std::uint32_t* words, int count) {
  if constexpr (full) {
    return load(words);
  } else {
    return load_first(words, count);
  }
}

/// Adds `carry` to the planes from `plane` on. It dies out: counters are never over capacity.
inline void ripple(Vec* plane, Vec carry) {
  while (any(carry)) {
    const Vec next = bit_and(*plane, carry);
    *plane = bit_xor(*plane, carry);
    carry = next;
    ++plane;
  }
}

/// Adds sixteen rows, the `tile`th of a sum, with a tree of carry-save adders (Harley and Seal).
///
/// A carry waits until there are two: a full adder then takes both, every second tile in the plane
/// of sixteens, every fourth in that of thirty-twos. Rippled at once they took as long as the tree.
template <bool full>
inline void add_tile(const std::uint32_t* const* rows, std::int64_t offset, int count,
                     std::int64_t tile, Vec* plane) {
  Vec ones = plane[0];
  Vec twos = plane[1];
  Vec fours = plane[2];
  Vec eights = plane[3];
  Vec eight[2];
  for (int half = 0; half < 2; ++half) {
    Vec four[2];
    for (int quarter = 0; quarter < 2; ++quarter) {
      const std::uint32_t* const* row = rows + 8 * half + 4 * quarter;
      Vec two[2];
      for (int pair = 0; pair < 2; ++pair) {
        full_add(ones, load_words<full>(row[2 * pair] + offset, count),
                 load_words<full>(row[2 * pair + 1] + offset, count), two[pair]);
      }
      full_add(twos, two[0], two[1], four[quarter]);
    }
    full_add(fours, four[0], four[1], eight[half]);
  }
  Vec carry;
  full_add(eights, eight[0], eight[1], carry);
  plane[0] = ones;
  plane[1] = twos;
  plane[2] = fours;
  plane[3] = eights;
  int k = 4;
  for (; (tile & 1) != 0; tile >>= 1, ++k) {
    Vec next;
    full_add(plane[k], plane[plane_count + k], carry, next);
    carry = next;
  }
  plane[plane_count + k] = carry;
}

/// Adds the carries that still wait after `tiles` tiles.
inline void settle(std::int64_t tiles, Vec* plane) {
  for (int k = 4; tiles != 0; tiles >>= 1, ++k) {
    if ((tiles & 1) != 0) {
      ripple(plane + k, plane[plane_count + k]);
    }
  }
}

/// Adds fewer than sixteen rows.
template <bool full>
inline void add_few(const std::uint32_t* const* rows, std::int64_t n_rows, std::int64_t offset,
                    int count, Vec* plane) {
  Vec ones = plane[0];
  Vec twos = plane[1];
  Vec fours = plane[2];
  Vec eights = plane[3];
  for (std::int64_t i = 0; i < n_rows; i += 2) {
    const Vec first = load_words<full>(rows[i] + offset, count);
    const Vec second = i + 1 < n_rows ? load_words<full>(rows[i + 1] + offset, count) : zero();
    Vec two;
    full_add(ones, first, second, two);
    const Vec four = bit_and(twos, two);
    twos = bit_xor(twos, two);
    const Vec eight = bit_and(fours, four);
    fours = bit_xor(fours, four);
    const Vec sixteen = bit_and(eights, eight);
    eights = bit_xor(eights, eight);
    ripple(plane + 4, sixteen);
  }
  plane[0] = ones;
  plane[1] = twos;
  plane[2] = fours;
  plane[3] = eights;
}

/// Counts the rows [begin, end) of the order, at most plane_capacity of them.
///
/// planes[v * plane_slots + k] gets bit k of the counts of vector v. Returns how many planes per
/// vector are in use; the others hold nothing of meaning.
inline int count_planes(std::int64_t begin, std::int64_t end, Prefetcher& prefetcher, Vec* planes) {
  const std::int64_t width = prefetcher.words.end - prefetcher.words.begin;
  const int used = bit_length(end - begin);
  const int cleared = used < 4 ? 4 : used;
  for (std::int64_t v = 0; v * vec_words < width; ++v) {
    for (int k = 0; k < cleared; ++k) {
      planes[v * plane_slots + k] = zero();
    }
  }
  const std::int64_t tiles = (end - begin) / tile_rows;
  for (std::int64_t tile = 0; begin + tile * tile_rows < end; ++tile) {
    const std::int64_t i = begin + tile * tile_rows;
    const std::int64_t n_rows = least(tile_rows, end - i);
    prefetcher.reach(i);
    const std::uint32_t* row[tile_rows];
    for (std::int64_t k = 0; k < n_rows; ++k) {
      row[k] = prefetcher.row(i + k);
    }
    Vec* plane = planes;
    std::int64_t offset = 0;
    for (; offset + vec_words <= width; offset += vec_words, plane += plane_slots) {
      if (tile < tiles) {
        add_tile<true>(row, offset, vec_words, tile, plane);
      } else {
        add_few<true>(row, n_rows, offset, vec_words, plane);
      }
    }
    if (offset < width) {
      const int count = static_cast<int>(width - offset);
      if (tile < tiles) {
        add_tile<false>(row, offset, count, tile, plane);
      } else {
        add_few<false>(row, n_rows, offset, count, plane);
      }
    }
  }
  for (std::int64_t v = 0; v * vec_words < width; ++v) {
    settle(tiles, planes + v * plane_slots);
  }
  return used;
}

/// counts[f] += the counter of bit f, for the first `neurons` bits of a vector.
template <typename Count>
inline void add_counts(const Vec* planes, int used, std::int64_t neurons, Count* counts) {
  std::uint32_t words[plane_count][vec_words];
  for (int k = 0; k < used; ++k) {
    store(words[k], planes[k]);
  }
  for (int w = 0; w < vec_words && 32 * w < neurons; ++w) {
    std::uint32_t sum[32] = {};
    for (int k = 0; k < used; ++k) {
      const std::uint32_t word = words[k][w];
      for (unsigned b = 0; b < 32; ++b) {
        sum[b] += ((word >> b) & 1u) << k;
      }
    }
    Count* place = counts + 32 * w;
    if (neurons - 32 * w >= 32) {
      for (int b = 0; b < 32; ++b) {
        place[b] += static_cast<Count>(sum[b]);
      }
    } else {
      for (std::int64_t b = 0; b < neurons - 32 * w; ++b) {
        place[b] += static_cast<Count>(sum[b]);
      }
    }
  }
}

/// counts[f - first neuron of `words`] += how often neuron f fires on the rows [begin, end).
template <typename Count>
inline void count_rows(std::int64_t begin, std::int64_t end, Prefetcher& prefetcher, Vec* planes,
                       std::int64_t neurons, Count* counts) {
  for (std::int64_t i = begin; i < end; i += plane_capacity) {
    const std::int64_t stop = least(end, i + plane_capacity);
    const int used = count_planes(i, stop, prefetcher, planes);
    for (std::int64_t v = 0; 32 * v * vec_words < neurons; ++v) {
      const std::int64_t first = 32 * v * vec_words;
      add_counts(planes + v * plane_slots, used, neurons - first, counts + first);
    }
  }
}

/// Neurons of the words [begin, end), where there are `neurons` in all.
constexpr std::int64_t neurons_of(WordRange words, std::int64_t neurons) {
  return least(32 * words.end, neurons) - 32 * words.begin;
}

/// Vectors that hold `words` words.
constexpr std::int64_t vectors(std::int64_t words) {
  return (words + vec_words - 1) / vec_words;
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
