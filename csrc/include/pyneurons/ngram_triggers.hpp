#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// Per neuron, the segments in which it fires at least `threshold[f]` times.
///
/// For neuron f and each segment g, ascending, with count c >= threshold[f], in turn for
/// k = offsets[f], offsets[f] + 1, ...:  segment_of[k] = g, fires[k] = c.
///
/// mask        [N, W] u32, bit f % 32 of word f / 32
/// order       [M] i32 rows of the mask, or null for 0, 1, ..., N - 1
/// segments    [n_segments + 1] i64, not decreasing, within 0 to M
/// threshold   [neurons] i64, >= 1, neurons <= 32 * W
/// offsets     [neurons + 1] i64, not decreasing, from 0
/// segment_of  [offsets[neurons]] i32, overwritten
/// fires       [offsets[neurons]] i64, overwritten
///
/// Throws Contradiction(f, number found), outputs untouched, where a neuron's list does not fill
/// its place exactly.
/// Cost: the rows of every segment that is long enough for some threshold, once.
void ngram_triggers(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    std::int64_t order_length, const std::int64_t* segments,
                    std::int64_t n_segments, std::int64_t neurons, const std::int64_t* threshold,
                    const std::int64_t* offsets, std::int32_t* segment_of, std::int64_t* fires,
                    Isa isa, int threads);

}  // namespace pyneurons
