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

/// Rows of a block: its lowest six planes stay in registers from the first row to the last.
constexpr std::int64_t block_rows = 64;
constexpr int block_planes = 6;

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

/// Finds the rows of an order and asks for them ahead of their use.
///
/// Into L2 `ahead` rows before, by whole rows: the few misses that L1 can wait for at once are too
/// slow (Zen 4, rows of 128 bytes in any order: 6.2 against 3.5 GB/s on one core), and rows of one
/// page find its address once. In blocks also from there into L1, a few rows at a time between the
/// sums and never in a burst (Sapphire Rapids class, rows of 384 bytes: in order 12.7 to 15.0 GB/s
/// where a plain sum reads 15.5, in any order 8.0 to 9.0).
class Prefetcher {
 public:
  /// Rows before `next` are not asked for.
  Prefetcher(const RowSource& rows, WordRange words, std::int64_t next)
      : rows_(rows),
        words_(words),
        next_(next),
        // What fits L2 is there, or soon will be: asking for it costs a third of the time.
        asks_(rows.mask.rows * rows.mask.row_stride > (std::int64_t{1} << 18)) {
    for (const std::uint32_t*& row : found_) {
      row = rows.mask.data;
    }
  }

  std::int64_t width() const { return words_.end - words_.begin; }

  /// Asks for the rows up to `ahead` behind i.
  void reach(std::int64_t i) {
    for (const std::int64_t end = least(i + ahead, rows_.length); next_ < end; ++next_) {
      find(next_);
      if (asks_) {
        ask(row(next_));
      }
    }
  }

  /// Nobody will use the rows before i.
  void leave_out(std::int64_t i) { next_ = next_ < i ? i : next_; }

  /// A row that `reach` has asked for, no more than `ahead` before the last one.
  const std::uint32_t* row(std::int64_t i) const { return found_[i % held]; }

  /// The same as a list that goes on to the last row asked for.
  const std::uint32_t* const* list(std::int64_t i) const { return found_ + i % held; }

  /// What to ask for while the block of rows from i on is added, in `steps` steps.
  class Block {
   public:
    Block(Prefetcher& prefetcher, std::int64_t i, std::int64_t steps)
        : far_(prefetcher.list(prefetcher.next_)),
          near_(prefetcher.list(i + tile_rows)),
          width_(prefetcher.width()),
          share_((block_rows + steps - 1) / steps),
          left_(prefetcher.asks_ ? block_rows : 0) {
      const std::int64_t end = least(i + block_rows + ahead, prefetcher.rows_.length);
      for (; prefetcher.next_ < end; ++prefetcher.next_) {
        prefetcher.find(prefetcher.next_);
      }
    }

    /// At the end of an order, rows that were used before are asked for: that costs little.
    void step() {
      const std::int64_t stop = left_ > share_ ? left_ - share_ : 0;
      for (; left_ > stop; --left_, ++far_, ++near_) {
        for (std::int64_t word = 0; word < width_; word += line_words) {
          __builtin_prefetch(*far_ + word, 0, to_l2);
          __builtin_prefetch(*near_ + word, 0, to_l1);
        }
      }
    }

   private:
    const std::uint32_t* const* far_;
    const std::uint32_t* const* near_;
    std::int64_t width_;
    std::int64_t share_;
    std::int64_t left_;
  };

 private:
  static constexpr std::int64_t ahead = 96;
  static constexpr std::int64_t held = 256;
  static_assert(ahead + 2 * block_rows <= held);
  static constexpr std::int64_t line_words = 16;
  static constexpr int to_l1 = 3;
  static constexpr int to_l2 = 2;

  void find(std::int64_t i) {
    found_[i % held] = found_[i % held + held] = row_words(rows_, i, words_);
  }

  /// Every line of a row, wherever it begins.
  void ask(const std::uint32_t* row) const {
    const std::uintptr_t line = sizeof(*row) * line_words;
    const std::uintptr_t end = reinterpret_cast<std::uintptr_t>(row + width());
    for (std::uintptr_t place = reinterpret_cast<std::uintptr_t>(row) & ~(line - 1); place < end;
         place += line) {
      __builtin_prefetch(reinterpret_cast<const char*>(place), 0, to_l2);
    }
  }

  const RowSource& rows_;
  WordRange words_;
  std::int64_t next_;  // rows before it have been found
  bool asks_;
  const std::uint32_t* found_[2 * held];  // each twice, so that any run of them is a list
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

/// Adds sixteen rows to four planes with a tree of carry-save adders (Harley and Seal); what they
/// carry is left to the caller.
template <bool full>
inline Vec add_tile(const std::uint32_t* const* rows, std::int64_t offset, int count, Vec& ones,
                    Vec& twos, Vec& fours, Vec& eights) {
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
  return carry;
}

/// Adds the `block`th block of a sum.
///
/// A carry waits until there are two: a full adder then takes both, every second block in the plane
/// of sixty-fours, every fourth in the next. Rippled at once they took as long as the tree (tiles
/// of sixteen rows, Zen 4).
template <bool full>
inline void add_block(const std::uint32_t* const* rows, Prefetcher::Block& ahead,
                      std::int64_t offset, int count, std::int64_t block, Vec* plane) {
  Vec low[block_planes];
  for (int k = 0; k < block_planes; ++k) {
    low[k] = plane[k];
  }
  Vec thirty_two[2];
  for (int half = 0; half < 2; ++half) {
    Vec sixteen[2];
    for (int quarter = 0; quarter < 2; ++quarter) {
      ahead.step();
      sixteen[quarter] = add_tile<full>(rows + (2 * half + quarter) * tile_rows, offset, count,
                                        low[0], low[1], low[2], low[3]);
    }
    full_add(low[4], sixteen[0], sixteen[1], thirty_two[half]);
  }
  Vec carry;
  full_add(low[5], thirty_two[0], thirty_two[1], carry);
  for (int k = 0; k < block_planes; ++k) {
    plane[k] = low[k];
  }
  int k = block_planes;
  for (; (block & 1) != 0; block >>= 1, ++k) {
    Vec next;
    full_add(plane[k], plane[plane_count + k], carry, next);
    carry = next;
  }
  plane[plane_count + k] = carry;
}

/// Adds the carries that still wait after `blocks` blocks.
inline void settle(std::int64_t blocks, Vec* plane) {
  for (int k = block_planes; blocks != 0; blocks >>= 1, ++k) {
    if ((blocks & 1) != 0) {
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

/// Adds up to sixteen rows.
template <bool full>
inline void add_rest(const std::uint32_t* const* rows, std::int64_t n_rows, std::int64_t offset,
                     int count, Vec* plane) {
  if (n_rows == tile_rows) {
    ripple(plane + 4, add_tile<full>(rows, offset, count, plane[0], plane[1], plane[2], plane[3]));
  } else {
    add_few<full>(rows, n_rows, offset, count, plane);
  }
}

/// Counts the rows [begin, end) of the order, at most plane_capacity of them.
///
/// planes[v * plane_slots + k] gets bit k of the counts of vector v. Returns how many planes per
/// vector are in use; the others hold nothing of meaning.
inline int count_planes(std::int64_t begin, std::int64_t end, Prefetcher& prefetcher, Vec* planes) {
  const std::int64_t width = prefetcher.width();
  const std::int64_t n_vectors = (width + vec_words - 1) / vec_words;
  const int used = bit_length(end - begin);
  const int cleared = used < block_planes ? block_planes : used;
  for (std::int64_t v = 0; v < n_vectors; ++v) {
    for (int k = 0; k < cleared; ++k) {
      planes[v * plane_slots + k] = zero();
    }
  }
  std::int64_t i = begin;
  prefetcher.reach(i);
  for (; i + block_rows <= end; i += block_rows) {
    Prefetcher::Block ahead(prefetcher, i, n_vectors * block_rows / tile_rows);
    const std::uint32_t* const* rows = prefetcher.list(i);
    const std::int64_t block = (i - begin) / block_rows;
    Vec* plane = planes;
    std::int64_t offset = 0;
    for (; offset + vec_words <= width; offset += vec_words, plane += plane_slots) {
      add_block<true>(rows, ahead, offset, vec_words, block, plane);
    }
    if (offset < width) {
      add_block<false>(rows, ahead, offset, static_cast<int>(width - offset), block, plane);
    }
  }
  const std::int64_t blocks = (i - begin) / block_rows;
  for (; i < end; i += tile_rows) {
    const std::int64_t n_rows = least(tile_rows, end - i);
    prefetcher.reach(i);
    const std::uint32_t* const* rows = prefetcher.list(i);
    Vec* plane = planes;
    std::int64_t offset = 0;
    for (; offset + vec_words <= width; offset += vec_words, plane += plane_slots) {
      add_rest<true>(rows, n_rows, offset, vec_words, plane);
    }
    if (offset < width) {
      add_rest<false>(rows, n_rows, offset, static_cast<int>(width - offset), plane);
    }
  }
  for (std::int64_t v = 0; v < n_vectors; ++v) {
    settle(blocks, planes + v * plane_slots);
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
    std::uint32_t sum[32];
    weigh(&words[0][w], used, sum);
    Count* place = counts + 32 * w;
    if (neurons - 32 * w >= 32) {
      for (int b = 0; b < 32; ++b) {
        place[b] = static_cast<Count>(place[b] + sum[b]);
      }
    } else {
      for (std::int64_t b = 0; b < neurons - 32 * w; ++b) {
        place[b] = static_cast<Count>(place[b] + sum[b]);
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
