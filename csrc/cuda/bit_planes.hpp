#pragma once

#include <cstdint>

#include "host_device.hpp"

/// Vertical counters: one lane counts the 32 neurons of one word, one bit plane per power of two.
///
/// Lanes of a team take neighbouring words, so that they read 128 bytes of a row at once.
/// Source: Klarqvist, Mula, Lemire (2019), arXiv:1911.02696.
namespace pyneurons::cuda {

/// Enough for as many rows as one team ever counts without a break.
inline constexpr int plane_count = 13;
inline constexpr std::int64_t plane_capacity = (std::int64_t{1} << plane_count) - 1;

/// Rows whose words are asked for before the first of them is used.
inline constexpr int block_bits = 4;
inline constexpr int block_rows = 1 << block_bits;

struct BitPlanes {
  std::uint32_t plane[plane_count];
};

/// Rows of a mask [N, W] u32 in the order in which they are visited, null for 0, 1, ..., N - 1.
struct Rows {
  const std::uint32_t* mask;
  std::int64_t row_stride;
  const std::int32_t* order;
};

PYNEURONS_HD constexpr int bit_length(std::int64_t value) {
  int bits = 0;
  for (; value != 0; value >>= 1) {
    ++bits;
  }
  return bits;
}

/// Sum of three bits of each position: the lower bit into `a`, the carry returned.
PYNEURONS_HD std::uint32_t full_add(std::uint32_t& a, std::uint32_t b, std::uint32_t c) {
  const std::uint32_t carry = (a & b) | (a & c) | (b & c);
  a = a ^ b ^ c;
  return carry;
}

/// Adds 2^bits rows to the lowest planes; the carry, worth 2^bits, is returned.
template <int bits>
PYNEURONS_HD std::uint32_t add_rows(const std::uint32_t* words, BitPlanes& planes) {
  if constexpr (bits == 0) {
    return words[0];
  } else {
    const std::uint32_t first = add_rows<bits - 1>(words, planes);
    const std::uint32_t second = add_rows<bits - 1>(words + (1 << (bits - 1)), planes);
    return full_add(planes.plane[bits - 1], first, second);
  }
}

/// Adds a word worth 2^from, as far as the carry goes.
template <int from, int count>
PYNEURONS_HD void ripple(std::uint32_t* plane, std::uint32_t carry) {
#if defined(__CUDA_ARCH__)
#  pragma unroll
#endif
  for (int k = from; k < count; ++k) {
    if (carry == 0) {
      break;
    }
    const std::uint32_t next = plane[k] & carry;
    plane[k] ^= carry;
    carry = next;
  }
}

template <int bits>
PYNEURONS_HD void add_some(const Rows& rows, std::int64_t i, std::int64_t word, BitPlanes& planes) {
  std::uint32_t words[1 << bits];
#if defined(__CUDA_ARCH__)
#  pragma unroll
#endif
  for (int k = 0; k < 1 << bits; ++k) {
    const std::int64_t row = rows.order == nullptr ? i + k : rows.order[i + k];
    words[k] = rows.mask[row * rows.row_stride + word];
  }
  ripple<bits, plane_count>(planes.plane, add_rows<bits>(words, planes));
}

/// Planes of how often each bit of `word` is set in rows [begin, end) of the order, no more of them
/// than plane_capacity.
PYNEURONS_HD BitPlanes count_rows(const Rows& rows, std::int64_t begin, std::int64_t end,
                                  std::int64_t word) {
  BitPlanes planes{};
  std::int64_t i = begin;
  for (; end - i >= block_rows; i += block_rows) {
    add_some<block_bits>(rows, i, word, planes);
  }
  static_assert(block_bits == 4);
  const std::int64_t left = end - i;
  if ((left & 8) != 0) {
    add_some<3>(rows, i, word, planes);
    i += 8;
  }
  if ((left & 4) != 0) {
    add_some<2>(rows, i, word, planes);
    i += 4;
  }
  if ((left & 2) != 0) {
    add_some<1>(rows, i, word, planes);
    i += 2;
  }
  if ((left & 1) != 0) {
    add_some<0>(rows, i, word, planes);
  }
  return planes;
}

/// The number that stands at one position of the lowest `used` planes.
template <int count>
PYNEURONS_HD std::uint32_t number_at(const std::uint32_t (&plane)[count], int used, int position) {
  std::uint32_t number = 0;
#if defined(__CUDA_ARCH__)
#  pragma unroll
#endif
  for (int k = 0; k < count; ++k) {
    if (k < used) {
      number |= ((plane[k] >> position) & 1u) << k;
    }
  }
  return number;
}

/// Planes of a whole team, where every lane can read those of the others.
template <int count>
struct SharedPlanes {
  std::uint32_t plane[lanes][count];

  PYNEURONS_HD void put(int lane, const std::uint32_t (&own)[count], int used) {
#if defined(__CUDA_ARCH__)
#  pragma unroll
#endif
    for (int k = 0; k < count; ++k) {
      if (k < used) {
        plane[lane][k] = own[k];
      }
    }
  }
};

/// Adds the numbers of a team's planes to counters[f], for the neurons from `first` to `neurons`.
///
/// Word by word with one neuron per lane, so that a team adds to neighbouring counters at once:
/// lane by lane with one word each it would touch eight times as many sectors of memory. Whose
/// number is 0 is left alone.
template <typename Count, int count>
PYNEURONS_HD void deposit(int lane, const SharedPlanes<count>& shared, int used, std::int64_t first,
                          std::int64_t neurons, Count* counters) {
  for (int w = 0; w < lanes && first + 32 * w < neurons; ++w) {
    const std::int64_t neuron = first + 32 * w + lane;
    const std::uint32_t number = number_at(shared.plane[w], used, lane);
    if (number != 0 && neuron < neurons) {
      atomic_add(counters + neuron, static_cast<Count>(number));
    }
  }
}

/// Rows cut into pieces and neurons into strips of 1024, one team each; strips of a piece follow
/// one another, so that the teams of one block read neighbouring words of the same rows.
struct Division {
  std::int64_t first_row;
  std::int64_t last_row;
  std::int64_t piece_rows;
  std::int64_t neurons;

  PYNEURONS_HD std::int64_t strips() const { return divided_up(neurons, 32 * lanes); }
  PYNEURONS_HD std::int64_t pieces() const { return divided_up(last_row - first_row, piece_rows); }
  PYNEURONS_HD std::int64_t teams() const { return pieces() * strips(); }
  PYNEURONS_HD std::int64_t first_word(std::int64_t team) const { return team % strips() * lanes; }
  PYNEURONS_HD std::int64_t begin(std::int64_t team) const {
    return first_row + team / strips() * piece_rows;
  }
  PYNEURONS_HD std::int64_t end(std::int64_t team) const {
    return least(begin(team) + piece_rows, last_row);
  }
  /// Whether the word has neurons: past the last one nothing may be read.
  PYNEURONS_HD bool has(std::int64_t word) const { return 32 * word < neurons; }
};

/// The most rows per piece with which `teams` teams have work, and no fewer than `fewest`: each
/// piece ends with an addition to every counter, which takes as long as the reading of some rows.
inline Division divide(std::int64_t first_row, std::int64_t last_row, std::int64_t neurons,
                       std::int64_t teams, std::int64_t fewest) {
  Division division{first_row, last_row, plane_capacity, neurons};
  const std::int64_t strips = division.strips() > 0 ? division.strips() : 1;
  const std::int64_t wanted = divided_up((last_row - first_row) * strips, teams > 0 ? teams : 1);
  division.piece_rows = least(plane_capacity, wanted > fewest ? wanted : fewest);
  return division;
}

}  // namespace pyneurons::cuda
