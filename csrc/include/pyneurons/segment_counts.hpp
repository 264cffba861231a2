#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// Counters [rows, cols] of 8 bytes with a sign, or of 1, 2 or 4 without; the row stride is in
/// counters.
struct Counters {
  Counters(MatrixView<std::int64_t> view)
      : data(view.data), rows(view.rows), cols(view.cols), row_stride(view.row_stride), bytes(8) {}
  Counters(void* data_, std::int64_t rows_, std::int64_t cols_, std::int64_t row_stride_,
           int bytes_)
      : data(data_), rows(rows_), cols(cols_), row_stride(row_stride_), bytes(bytes_) {}

  void* data;
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t row_stride;
  int bytes;
};

/// Positional population count over segments of rows of a bit mask.
///
///   counts[s][f] += #{ i in [segments[s], segments[s+1]) : bit f of mask[order[i]] is set }
///
/// mask      [N, W] u32, bit f % 32 of word f / 32
/// order     [M] i32 rows of the mask, or null for 0, 1, ..., N - 1
/// segments  [counts.rows + 1] i64, not decreasing, within 0 to M
/// counts    [G, F], F <= 32 * W, accumulated into; must not alias the inputs
///
/// Exact for any length, as far as the counters go. Cost: M * W words read once, G * F counters
/// updated. Source: Klarqvist, Mula, Lemire (2019), arXiv:1911.02696: carry-save adders.
void segment_counts(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    std::int64_t order_length, const std::int64_t* segments, const Counters& counts,
                    Isa isa, int threads);

}  // namespace pyneurons
