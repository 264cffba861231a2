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

template <typename Count>
void add_part(const Part& part, const Counters& counts) {
  Count* row = static_cast<Count*>(counts.data) + part.segment * counts.row_stride;
  for (const std::int64_t count : part.counts) {
    *row = static_cast<Count>(*row + static_cast<Count>(count));
    ++row;
  }
}

void add(const Part& part, const Counters& counts) {
  switch (counts.bytes) {
    case 1:
      add_part<std::uint8_t>(part, counts);
      break;
    case 2:
      add_part<std::uint16_t>(part, counts);
      break;
    case 4:
      add_part<std::uint32_t>(part, counts);
      break;
    default:
      add_part<std::int64_t>(part, counts);
  }
}

}  // namespace

void segment_counts(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    std::int64_t order_length, const std::int64_t* segments, const Counters& counts,
                    Isa isa, int threads) {
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
    const auto count = [&](const std::int64_t* bounds, const Counters& into) {
      record(Op::segment_counts, table.segment_counts({rows, bounds, into}, piece.words));
    };
    Run& run = runs[static_cast<std::size_t>(piece.run)];
    Counters whole = counts;
    whole.data =
        static_cast<unsigned char*>(counts.data) + run.first * counts.row_stride * counts.bytes;
    whole.rows = run.last - run.first;
    count(segments + run.first, whole);
    for (Part& part : run.parts) {
      count(part.bounds, MatrixView<std::int64_t>{part.counts.data(), 1, neurons, neurons});
    }
  });
  for (const Run& run : runs) {
    for (const Part& part : run.parts) {
      add(part, counts);
    }
  }
}

}  // namespace pyneurons
