#pragma once

#include <algorithm>
#include <cstdint>
#include <ranges>

#include "pyneurons/cuda_ops.hpp"
#include "pyneurons/dispatch.hpp"
#include "segment_counts.hpp"

namespace pyneurons::cuda {

/// Segments longer than this are counted by several teams, densely, and not by one.
inline constexpr std::int64_t longest_of_one_team = 4096;
static_assert(longest_of_one_team <= plane_capacity);

/// No neuron contradicts.
inline constexpr std::uint64_t none = ~std::uint64_t{0};

/// added[c][f] += 1 for every segment in [first, last) with c >= 1 fires of neuron f.
///
/// Segments are no longer than plane_capacity. Counts up to `few` are by far the most: they are
/// tallied in bit planes first, 32 neurons at a time; the rest is added one by one.
struct CoverageJob {
  static constexpr int few = 3;
  static constexpr int tally_planes = 7;
  static constexpr int tally_capacity = (1 << tally_planes) - 1;

  struct Tallies {
    std::uint32_t of[few][tally_planes];
  };
  using Shared = SharedPlanes<tally_planes>;

  Rows rows;
  const std::int64_t* segments;
  std::int64_t first;
  std::int64_t last;
  std::uint32_t* added;  // [longest + 1, neurons]
  Division division;     // a team takes the segments that begin in its rows

  PYNEURONS_HD std::int64_t teams() const { return division.teams(); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared& shared) const {
    const std::int64_t first_word = division.first_word(index);
    const std::int64_t begin = division.begin(index);
    const std::int64_t end = division.end(index);
    const std::int64_t stop =
        first_that(first, last, [&](std::int64_t g) { return segments[g] >= end; });
    PerLane<Tallies> tallies;
    std::int64_t number = 0;
    for (std::int64_t g =
             first_that(first, stop, [&](std::int64_t i) { return segments[i] >= begin; });
         g < stop; ++g) {
      team.each([&](int lane) {
        const std::int64_t word = first_word + lane;
        if (division.has(word)) {
          tally(count_rows(rows, segments[g], segments[g + 1], word),
                bit_length(segments[g + 1] - segments[g]), word, tallies[lane]);
        }
      });
      if (++number == tally_capacity || g + 1 == stop) {
        flush(team, first_word, bit_length(number), tallies, shared);
        number = 0;
      }
    }
  }

  PYNEURONS_HD void tally(const BitPlanes& planes, int used, std::int64_t word,
                          Tallies& tallies) const {
    const std::uint32_t* plane = planes.plane;
    std::uint32_t above = 0;
#if defined(__CUDA_ARCH__)
#  pragma unroll
#endif
    for (int k = 2; k < plane_count; ++k) {
      above |= plane[k];
    }
    ripple<0, tally_planes>(tallies.of[0], plane[0] & ~plane[1] & ~above);
    ripple<0, tally_planes>(tallies.of[1], plane[1] & ~plane[0] & ~above);
    ripple<0, tally_planes>(tallies.of[2], plane[0] & plane[1] & ~above);
    for (; above != 0; above &= above - 1) {
      const int position = lowest_bit(above);
      const std::int64_t neuron = 32 * word + position;
      if (neuron < division.neurons) {
        atomic_add(added + number_at(planes.plane, used, position) * division.neurons + neuron, 1u);
      }
    }
  }

  PYNEURONS_HD void flush(const Team& team, std::int64_t first_word, int used,
                          PerLane<Tallies>& tallies, Shared& shared) const {
#if defined(__CUDA_ARCH__)
#  pragma unroll
#endif
    for (int c = 1; c <= few; ++c) {
      team.each([&](int lane) { shared.put(lane, tallies[lane].of[c - 1], tally_planes); });
      // Row c does not exist where no segment is that long, and nothing is added to it then.
      team.each([&](int lane) {
        deposit(lane, shared, used, 32 * first_word, division.neurons,
                added + c * division.neurons);
      });
    }
    team.each([&](int lane) { tallies[lane] = Tallies{}; });
  }
};

/// added[c][f] += 1 for each row of dense counts with c = counts[i][f] >= 1.
struct DenseCoverageJob {
  struct Shared {};

  const std::uint64_t* counts;  // [number, neurons]
  std::int64_t number;
  std::int64_t neurons;
  std::uint32_t* added;

  PYNEURONS_HD std::int64_t teams() const { return divided_up(number * neurons, lanes); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    team.each([&](int lane) {
      const std::int64_t cell = index * lanes + lane;
      if (cell < number * neurons && counts[cell] != 0) {
        atomic_add(added + static_cast<std::int64_t>(counts[cell]) * neurons + cell % neurons, 1u);
      }
    });
  }
};

/// rest[f] -= sum over rows r of weight * table[r][f], where the weight is r or 1.
template <typename Count, bool weighted>
struct SubtractJob {
  static constexpr std::int64_t team_rows = 64;
  struct Shared {};

  const Count* table;  // [n_rows, neurons]
  std::int64_t n_rows;
  std::int64_t neurons;
  std::int64_t* rest;

  PYNEURONS_HD std::int64_t strips() const { return divided_up(neurons, lanes); }
  PYNEURONS_HD std::int64_t teams() const { return strips() * divided_up(n_rows, team_rows); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    const std::int64_t begin = index / strips() * team_rows;
    const std::int64_t end = least(begin + team_rows, n_rows);
    team.each([&](int lane) {
      const std::int64_t f = index % strips() * lanes + lane;
      if (f < neurons) {
        std::int64_t sum = 0;
        for (std::int64_t r = begin; r < end; ++r) {
          sum += (weighted ? r : 1) * static_cast<std::int64_t>(table[r * neurons + f]);
        }
        atomic_add(rest + f, -sum);
      }
    });
  }
};

/// The first neuron whose remainder is not one of the segments of one row.
struct CheckRemainderJob {
  struct Shared {};

  const std::int64_t* rest;
  std::int64_t neurons;
  std::int64_t singletons;
  std::uint64_t* contradiction;

  PYNEURONS_HD std::int64_t teams() const { return divided_up(neurons, lanes); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    team.each([&](int lane) {
      const std::int64_t f = index * lanes + lane;
      if (f < neurons && (rest[f] < 0 || rest[f] > singletons)) {
        atomic_min(contradiction, static_cast<std::uint64_t>(f));
      }
    });
  }
};

/// table[r][f] += added[r][f].
template <typename Count>
struct AddTableJob {
  struct Shared {};

  const Count* added;  // [n_rows, neurons]
  std::int64_t n_rows;
  std::int64_t neurons;
  std::int64_t* table;
  std::int64_t row_stride;

  PYNEURONS_HD std::int64_t teams() const { return divided_up(n_rows * neurons, lanes); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    team.each([&](int lane) {
      const std::int64_t cell = index * lanes + lane;
      if (cell < n_rows * neurons) {
        table[cell / neurons * row_stride + cell % neurons] +=
            static_cast<std::int64_t>(added[cell]);
      }
    });
  }
};

/// First segment at least so many rows long, of segments sorted by length.
inline std::int64_t first_of_length(const SegmentBounds& segments, std::int64_t rows) {
  const auto all = std::views::iota(std::int64_t{0}, segments.number);
  const auto shorter = [&](std::int64_t s) { return segments.length(s) < rows; };
  return static_cast<std::int64_t>(std::ranges::partition_point(all, shorter) - all.begin());
}

/// Rows per piece at least: the tallies of a piece are added to three rows of counters.
inline constexpr std::int64_t fewest_covered_rows = 256;

/// Cells of dense counts, 8 bytes each, that are held at once.
inline constexpr std::int64_t most_dense_cells = std::int64_t{1} << 25;

/// Calls body(first, last, counts) for runs of the segments in [first, last), with their counts
/// [last - first, neurons] u64 on the device.
template <typename Device, typename Body>
void in_dense_runs(Device& device, const Rows& rows, const SegmentBounds& segments,
                   std::int64_t first, std::int64_t last, std::int64_t neurons, const Body& body) {
  const std::int64_t fitting = most_dense_cells / (neurons > 0 ? neurons : 1);
  const std::int64_t run = fitting > 0 ? fitting : 1;
  for (std::int64_t begin = first; begin < last; begin += run) {
    const std::int64_t end = least(begin + run, last);
    const auto counts = device.template zeros<std::uint64_t>((end - begin) * neurons);
    segment_counts(device, rows, segments.device + begin, end - begin, segments.host[begin],
                   segments.host[end], neurons, counts.data(), neurons);
    body(begin, end, counts.data());
  }
}

/// See pyneurons/ngram_coverage.hpp. `longest` is longest_of_one_team, or less in tests.
template <typename Device>
void ngram_coverage(Device& device, const Rows& rows, const SegmentBounds& segments,
                    const std::int64_t* fires, std::int64_t bins, std::int64_t neurons,
                    std::int64_t* histogram, std::int64_t histogram_stride, std::int64_t* large,
                    std::int64_t large_stride, std::int64_t longest = longest_of_one_team) {
  const std::int64_t first = first_of_length(segments, 2);
  const std::int64_t singletons = first - first_of_length(segments, 1);
  const std::int64_t first_large = first_of_length(segments, bins + 1);
  const std::int64_t first_long = least(first_large, first_of_length(segments, longest + 1));
  const std::int64_t n_large = segments.number - first_large;
  const std::int64_t table_rows = first_large > first ? segments.length(first_large - 1) + 1 : 0;

  // Into scratch first: should the remainder not add up, the outputs are as they were.
  const auto added = device.template zeros<std::uint32_t>(table_rows * neurons);
  const auto added_large = device.template zeros<std::uint64_t>(n_large * neurons);
  const auto rest = device.template zeros<std::int64_t>(neurons);
  const auto contradiction = device.template zeros<std::uint64_t>(1);
  device.copy(rest.data(), fires, neurons);
  device.fill_ones(contradiction.data(), 1);

  if (first_long > first) {
    device.run(CoverageJob{rows, segments.device, first, first_long, added.data(),
                           divide(segments.host[first], segments.host[first_long], neurons,
                                  device.teams_wanted(), fewest_covered_rows)});
  }
  in_dense_runs(device, rows, segments, first_long, first_large, neurons,
                [&](std::int64_t begin, std::int64_t end, const std::uint64_t* counts) {
                  device.run(DenseCoverageJob{counts, end - begin, neurons, added.data()});
                });
  segment_counts(device, rows, segments.device + first_large, n_large, segments.host[first_large],
                 segments.host[segments.number], neurons, added_large.data(), neurons);
  device.run(SubtractJob<std::uint32_t, true>{added.data(), table_rows, neurons, rest.data()});
  device.run(SubtractJob<std::uint64_t, false>{added_large.data(), n_large, neurons, rest.data()});
  device.run(CheckRemainderJob{rest.data(), neurons, singletons, contradiction.data()});
  const std::uint64_t wrong = device.read(contradiction.data());
  if (wrong != none) {
    throw Contradiction(static_cast<std::int64_t>(wrong), device.read(rest.data() + wrong));
  }
  device.run(
      AddTableJob<std::uint32_t>{added.data(), table_rows, neurons, histogram, histogram_stride});
  device.run(AddTableJob<std::int64_t>{rest.data(), 1, neurons, histogram + histogram_stride, 0});
  device.run(AddTableJob<std::uint64_t>{added_large.data(), n_large, neurons, large, large_stride});
}

}  // namespace pyneurons::cuda
