#include "pyneurons/segment_counts.hpp"

#include <algorithm>
#include <vector>

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pyneurons {
namespace {

/// A segment that a run has only part of: counted apart, so that no two threads share counters.
struct Part {
  std::int64_t segment;
  std::int64_t bounds[2];
  std::vector<std::int64_t> counts;
};

/// What a run of rows counts.
struct Run {
  std::int64_t first;  // whole segments [first, last)
  std::int64_t last;
  std::vector<Part> parts;
};

Run run_of(const std::int64_t* segments, std::int64_t n_segments, std::int64_t begin,
           std::int64_t end, std::int64_t neurons) {
  const std::int64_t* const all = segments + n_segments;
  // Segments that begin in the run, first to last; those without rows may be in any.
  const std::int64_t* const first = std::lower_bound(segments, all, begin);
  const std::int64_t* const last = std::lower_bound(first, all, end);
  Run run{first - segments, last - segments, {}};
  const auto add = [&](std::int64_t segment, std::int64_t from, std::int64_t to) {
    run.parts.push_back(
        {segment, {from, to}, std::vector<std::int64_t>(static_cast<std::size_t>(neurons))});
  };
  if (first > segments && *first > begin) {
    add(run.first - 1, begin, std::min(*first, end));
  }
  if (first < last && *last > end) {
    --run.last;
    add(run.last, last[-1], end);
  }
  return run;
}

}  // namespace

void segment_counts(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    std::int64_t order_length, const std::int64_t* segments,
                    MatrixView<std::int64_t> counts, Isa isa, int threads) {
  const Kernels& table = kernels(isa);
  const RowSource rows{mask, order, order_length};
  const std::int64_t neurons = counts.cols;
  const Division division((neurons + 31) / 32, SegmentCountsJob::max_words,
                          segments[counts.rows] - segments[0], threads);
  std::vector<Run> runs;
  for (std::int64_t i = 0; i < division.runs; ++i) {
    runs.push_back(run_of(segments, counts.rows, segments[0] + division.bound(i),
                          segments[0] + division.bound(i + 1), neurons));
  }
  parallel_runs(division, threads, [&](const Piece& piece) {
    const auto count = [&](const std::int64_t* bounds, MatrixView<std::int64_t> into) {
      record(Op::segment_counts, table.segment_counts({rows, bounds, into}, piece.words));
    };
    Run& run = runs[static_cast<std::size_t>(piece.run)];
    count(segments + run.first, {counts.data + run.first * counts.row_stride, run.last - run.first,
                                 neurons, counts.row_stride});
    for (Part& part : run.parts) {
      count(part.bounds, {part.counts.data(), 1, neurons, neurons});
    }
  });
  for (const Run& run : runs) {
    for (const Part& part : run.parts) {
      std::int64_t* row = counts.data + part.segment * counts.row_stride;
      for (std::int64_t f = 0; f < neurons; ++f) {
        row[f] += part.counts[static_cast<std::size_t>(f)];
      }
    }
  }
}

}  // namespace pyneurons
