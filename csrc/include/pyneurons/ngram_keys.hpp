#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"

namespace pyneurons {

/// The key of a row that ends no countable n-gram.
inline constexpr std::uint64_t no_ngram = ~std::uint64_t{0};

/// The key of the n-gram that ends at each row.
///
///   keys[i] = sum_j ids[i-n+1+j] << bits * (n-1-j)      n * bits <= 64
///   keys[i] = min(mix(...mix(mix(0, first), ...), last), 2**64 - 2)   otherwise
///   keys[i] = no_ngram      where the n tokens are not in one sequence or one is `boundary`
///
/// with mix(h, t) = splitmix64(h ^ (t + 1)).
///
/// ids     [rows] u16 or u32, each at most 2**bits - 2
/// starts  [sequences + 1] i64, first row of each sequence, then `rows`
/// keys    [rows] u64, overwritten
///
/// Cost: n passes over blocks of ids in cache, 8 bytes written per row.
void ngram_keys(const std::uint16_t* ids, std::int64_t rows, const std::int64_t* starts,
                std::int64_t sequences, int n, int bits, std::uint32_t boundary,
                std::uint64_t* keys, Isa isa, int threads);
void ngram_keys(const std::uint32_t* ids, std::int64_t rows, const std::int64_t* starts,
                std::int64_t sequences, int n, int bits, std::uint32_t boundary,
                std::uint64_t* keys, Isa isa, int threads);

}  // namespace pyneurons
