#pragma once

#include <cstdint>

#include "bit_planes.hpp"

namespace pyneurons::cuda {

/// counts[s][f] += rows of segment s on which neuron f fires, as the op `segment_counts`.
///
/// Every team counts the rows of one piece for one strip of neurons, segment by segment, and adds
/// them to the counters of all: a segment may lie in any number of pieces.
template <typename Count>
struct SegmentCountsJob {
  using Shared = SharedPlanes<plane_count>;

  Rows rows;
  const std::int64_t* segments;  // [n_segments + 1]
  std::int64_t n_segments;
  Count* counts;
  std::int64_t row_stride;
  Division division;

  PYNEURONS_HD std::int64_t teams() const { return division.teams(); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared& shared) const {
    const std::int64_t first_word = division.first_word(index);
    const std::int64_t end = division.end(index);
    std::int64_t begin = division.begin(index);
    // The last segment that begins at or before the piece, or within it if it has no rows.
    std::int64_t s =
        first_that(0, n_segments, [&](std::int64_t i) { return segments[i + 1] > begin; });
    for (; begin < end; ++s) {
      const std::int64_t stop = least(end, segments[s + 1]);
      if (stop == begin) {
        continue;
      }
      const int used = bit_length(stop - begin);
      team.each([&](int lane) {
        const std::int64_t word = first_word + lane;
        if (division.has(word)) {
          shared.put(lane, count_rows(rows, begin, stop, word).plane, used);
        }
      });
      Count* row = counts + s * row_stride;
      team.each(
          [&](int lane) { deposit(lane, shared, used, 32 * first_word, division.neurons, row); });
      begin = stop;
    }
  }
};

/// Rows per piece at least: 32 counters of 8 bytes to add to after 4 bytes of every row.
inline constexpr std::int64_t fewest_counted_rows = 256;

/// See pyneurons/segment_counts.hpp; `first_row` and `last_row` are the first and last bound.
template <typename Count, typename Device>
void segment_counts(Device& device, const Rows& rows, const std::int64_t* segments,
                    std::int64_t n_segments, std::int64_t first_row, std::int64_t last_row,
                    std::int64_t neurons, Count* counts, std::int64_t row_stride) {
  device.run(SegmentCountsJob<Count>{
      rows, segments, n_segments, counts, row_stride,
      divide(first_row, last_row, neurons, device.teams_wanted(), fewest_counted_rows)});
}

}  // namespace pyneurons::cuda
