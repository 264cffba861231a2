#pragma once

#include <cstdint>
#include <vector>

#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// How many n-grams give each neuron each count: neuron f owns the entries
/// offsets[f] <= i < offsets[f + 1], ascending in count.
struct HistogramEntries {
  std::vector<std::int64_t> offsets;  // [F + 1]
  std::vector<std::int64_t> count;
  std::vector<std::int64_t> number;  // above 0
};

/// Joins what `ngram_coverage` fills: histogram[c][f] n-grams with count c, and one n-gram with
/// count large[i][f], where that is above 0, for every i.
///
/// histogram  [bins + 1, F] i64, row 0 is not read
/// large      [L, F] i64
///
/// Cost: reads both once; sorts each neuron's counts above bins. Scratch: 32 columns of the
/// histogram for each thread, and the entries twice.
HistogramEntries histogram_entries(MatrixView<const std::int64_t> histogram,
                                   MatrixView<const std::int64_t> large, int threads);

}  // namespace pyneurons
