#include <cstdint>

#include "kernels.hpp"
#include "pyneurons/ngram_keys.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// splitmix64 of the hash so far and the next token.
inline std::uint64_t mix(std::uint64_t hash, std::uint64_t token) {
  hash = (hash ^ (token + 1)) + 0x9E3779B97F4A7C15u;
  hash = (hash ^ (hash >> 30)) * 0xBF58476D1CE4E5B9u;
  hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EBu;
  return hash ^ (hash >> 31);
}

/// Keys of the rows [begin, end), each with n - 1 rows before it, as if all were one sequence.
/// Written as loops over a block so that the compiler makes vectors of them.
template <typename Id>
inline Isa keys_of_rows(const NgramKeysJob<Id>& job, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t block_rows = 512;
  std::uint64_t key[block_rows];
  std::uint64_t bad[block_rows];
  const bool exact = std::int64_t{job.n} * job.bits <= 64;
  // A shift by 64 is undefined: a single token of 64 bits does not exist, but say so here too.
  const unsigned shift = static_cast<unsigned>(job.bits) & 63u;
  for (std::int64_t first = begin; first < end; first += block_rows) {
    const std::int64_t rows = end - first < block_rows ? end - first : block_rows;
    for (std::int64_t i = 0; i < rows; ++i) {
      key[i] = 0;
      bad[i] = 0;
    }
    for (int j = 0; j < job.n; ++j) {
      const Id* ids = job.ids + first - job.n + 1 + j;
      for (std::int64_t i = 0; i < rows; ++i) {
        bad[i] |= std::uint64_t{0} - static_cast<std::uint64_t>(ids[i] == job.boundary);
      }
      if (exact) {
        for (std::int64_t i = 0; i < rows; ++i) {
          key[i] = (key[i] << shift) | ids[i];
        }
      } else {
        for (std::int64_t i = 0; i < rows; ++i) {
          key[i] = mix(key[i], ids[i]);
        }
      }
    }
    if (!exact) {
      for (std::int64_t i = 0; i < rows; ++i) {
        key[i] -= static_cast<std::uint64_t>(key[i] == no_ngram);
      }
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      job.keys[first + i] = key[i] | bad[i];
    }
  }
  return isa;
}

}  // namespace

Isa ngram_keys_u16(const NgramKeysJob<std::uint16_t>& job, std::int64_t begin, std::int64_t end) {
  return keys_of_rows(job, begin, end);
}

Isa ngram_keys_u32(const NgramKeysJob<std::uint32_t>& job, std::int64_t begin, std::int64_t end) {
  return keys_of_rows(job, begin, end);
}

}  // namespace pyneurons::PYNEURONS_ISA
