#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// The first segments in which each neuron fires exactly so often.
///
///   found_segments[f][found[f]...] = the first g, ascending, with
///     #{i in [segments[g], segments[g + 1]) : bit f of mask[order[i]]} == count[f]
///
/// until limit = found_segments.cols are known; found[f] moves on by as many.
///
/// mask            [N, W] u32, bit f % 32 of word f / 32
/// order           [M] i32 rows of the mask, or null for 0, 1, ..., N - 1
/// segments        [G + 1] i64 bounds in the order, of any lengths
/// count           [F] i64, 1 or more
/// found_segments  [F, limit] i32, F <= 32 * W, written from found[f] on
/// found           [F] i64, 0 to limit, moved on
///
/// Cost: the rows of segments that are long enough for a count that still looks, once at most.
/// Words whose neurons are all at the limit are skipped, and the pass ends when all are.
void first_segments(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    std::int64_t order_length, const std::int64_t* segments,
                    std::int64_t n_segments, const std::int64_t* count,
                    MatrixView<std::int32_t> found_segments, std::int64_t* found, Isa isa,
                    int threads);

}  // namespace pyneurons
