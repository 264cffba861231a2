#include "pyneurons/ngram_coverage.hpp"

#include <algorithm>
#include <vector>

#include "kernel_table.hpp"
#include "parallel.hpp"
#include "pyneurons/segment_counts.hpp"

namespace pyneurons {
namespace {

/// First segment at least `length` rows long; segments are sorted by length.
std::int64_t first_of_length(const std::int64_t* segments, std::int64_t n_segments,
                             std::int64_t length) {
  std::int64_t low = 0;
  std::int64_t high = n_segments;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (segments[middle + 1] - segments[middle] < length) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

struct NeuronRange {
  std::int64_t begin;
  std::int64_t end;
};

NeuronRange neurons_of(WordRange words, std::int64_t neurons) {
  return {32 * words.begin, std::min(neurons, 32 * words.end)};
}

}  // namespace

void ngram_coverage(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    std::int64_t order_length, const std::int64_t* segments,
                    std::int64_t n_segments, const std::int64_t* fires,
                    MatrixView<std::int64_t> histogram, MatrixView<std::int64_t> large, Isa isa,
                    int threads) {
  const Kernels& table = kernels(isa);
  const std::int64_t neurons = histogram.cols;
  const std::int64_t first = first_of_length(segments, n_segments, 2);
  const std::int64_t singletons = first - first_of_length(segments, n_segments, 1);
  const std::int64_t first_large = first_of_length(segments, n_segments, histogram.rows);
  const std::int64_t longest =
      first_large > first ? segments[first_large] - segments[first_large - 1] : 0;

  // Into scratch first: should the remainder not add up, the outputs are as they were.
  const std::int64_t words = (neurons + 31) / 32;
  const Division division(words, NgramCoverageJob::max_words,
                          segments[first_large] - segments[first], threads);
  const std::int64_t size = (longest + 1) * neurons;
  std::vector<std::int32_t> added(static_cast<std::size_t>(division.runs * size));
  std::vector<std::int64_t> added_large(static_cast<std::size_t>(large.rows * neurons));
  std::vector<std::int64_t> rest(fires, fires + neurons);

  segment_counts(mask, order, order_length, segments + first_large,
                 MatrixView<std::int64_t>{added_large.data(), large.rows, neurons, neurons}, isa,
                 threads);
  // Each run takes the segments that begin in it.
  const auto bound = [&](std::int64_t run) {
    return std::lower_bound(segments + first, segments + first_large,
                            segments[first] + division.bound(run)) -
           segments;
  };
  parallel_runs(division, threads, [&](const Piece& piece) {
    const NgramCoverageJob job{
        {mask, order, order_length}, segments, bound(piece.run),
        bound(piece.run + 1),        neurons,  added.data() + piece.run * size};
    record(Op::ngram_coverage, table.ngram_coverage(job, piece.words));
  });
  parallel_words(words, NgramCoverageJob::max_words, threads, [&](WordRange range) {
    const auto [begin, end] = neurons_of(range, neurons);
    for (std::int64_t run = 1; run < division.runs; ++run) {
      for (std::int64_t c = 1; c <= longest; ++c) {
        for (std::int64_t f = begin; f < end; ++f) {
          added[static_cast<std::size_t>(c * neurons + f)] +=
              added[static_cast<std::size_t>(run * size + c * neurons + f)];
        }
      }
    }
    for (std::int64_t c = 1; c <= longest; ++c) {
      for (std::int64_t f = begin; f < end; ++f) {
        rest[static_cast<std::size_t>(f)] -= c * added[static_cast<std::size_t>(c * neurons + f)];
      }
    }
    for (std::int64_t i = 0; i < large.rows; ++i) {
      for (std::int64_t f = begin; f < end; ++f) {
        rest[static_cast<std::size_t>(f)] -= added_large[static_cast<std::size_t>(i * neurons + f)];
      }
    }
  });
  for (std::int64_t f = 0; f < neurons; ++f) {
    const std::int64_t left = rest[static_cast<std::size_t>(f)];
    if (left < 0 || left > singletons) {
      throw Contradiction(f, left);
    }
  }
  parallel_words(words, NgramCoverageJob::max_words, threads, [&](WordRange range) {
    const auto [begin, end] = neurons_of(range, neurons);
    for (std::int64_t f = begin; f < end; ++f) {
      histogram.data[histogram.row_stride + f] += rest[static_cast<std::size_t>(f)];
    }
    for (std::int64_t c = 1; c <= longest; ++c) {
      for (std::int64_t f = begin; f < end; ++f) {
        histogram.data[c * histogram.row_stride + f] +=
            added[static_cast<std::size_t>(c * neurons + f)];
      }
    }
    for (std::int64_t i = 0; i < large.rows; ++i) {
      for (std::int64_t f = begin; f < end; ++f) {
        large.data[i * large.row_stride + f] +=
            added_large[static_cast<std::size_t>(i * neurons + f)];
      }
    }
  });
}

}  // namespace pyneurons
