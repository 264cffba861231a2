#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// The first rows, in the given order, on which each neuron fires.
///
///   rows[f][found[f]...] = the first entries of [order[i] : bit f of mask[order[i]] is set]
///
/// until limit = rows.cols are known; found[f] moves on by as many.
///
/// mask   [N, W] u32, bit f % 32 of word f / 32
/// order  [M] i32 rows of the mask, or null for 0, 1, ..., N - 1
/// rows   [F, limit] i64, F <= 32 * W, written from found[f] on
/// found  [F] i64, 0 to limit, moved on
///
/// Cost: M * W words read at most once. Words whose neurons are all at the limit are skipped, and
/// the pass ends when all are.
void firing_rows(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                 std::int64_t order_length, MatrixView<std::int64_t> rows, std::int64_t* found,
                 Isa isa, int threads);

}  // namespace pyneurons
