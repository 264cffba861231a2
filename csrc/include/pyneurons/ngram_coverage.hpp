#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// Per neuron, on how many n-grams (segments of rows) it fires exactly c times.
///
/// With c the count of neuron f in a segment of m rows, bins = histogram.rows - 1:
///
///   histogram[c][f] += 1     for every segment with 2 <= m <= bins and c >= 1
///   large[i][f] += c         for the i-th segment with m > bins
///   histogram[1][f] += fires[f] - sum of c over all of those     (the segments of one row)
///
/// mask       [N, W] u32, bit f % 32 of word f / 32
/// order      [M] i32 rows of the mask, or null for 0, 1, ..., N - 1
/// segments   [n_segments + 1] i64, within 0 to M; lengths do not decrease
/// fires      [F] i64, counts over all segments together
/// histogram  [bins + 1, F] i64, bins >= 1, accumulated into; row 0 is not touched
/// large      [segments longer than bins, F] i64, accumulated into
///
/// Throws Contradiction(f, remainder), outputs untouched, where the remainder for the segments of
/// one row is negative or more than their number. Rows of such segments are never read.
/// Cost: the rows of the other segments once; scratch 4 bytes per (bin in use, neuron).
/// Source: Voita et al. (2023), arXiv:2309.04827, section 4, restated as counts of counts.
void ngram_coverage(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    std::int64_t order_length, const std::int64_t* segments,
                    std::int64_t n_segments, const std::int64_t* fires,
                    MatrixView<std::int64_t> histogram, MatrixView<std::int64_t> large, Isa isa,
                    int threads);

}  // namespace pyneurons
