#pragma once

#include <cstdint>

#include "ngram_coverage.hpp"

namespace pyneurons::cuda {

/// Thresholds of 32 neurons as bit planes.
struct ThresholdPlanes {
  std::uint32_t plane[plane_count];
  std::uint32_t within;  // neurons whose threshold the planes hold: others never list
};

/// Slices the thresholds, one word per lane, and finds the lowest.
struct SliceThresholdsJob {
  struct Shared {};

  const std::int64_t* threshold;
  std::int64_t neurons;
  ThresholdPlanes* sliced;  // [words]
  std::uint64_t* lowest;

  PYNEURONS_HD std::int64_t words() const { return divided_up(neurons, 32); }
  PYNEURONS_HD std::int64_t teams() const { return divided_up(words(), lanes); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    team.each([&](int lane) {
      const std::int64_t word = index * lanes + lane;
      if (word >= words()) {
        return;
      }
      ThresholdPlanes planes{};
      std::uint64_t least_here = none;
      for (int b = 0; b < 32 && 32 * word + b < neurons; ++b) {
        const std::int64_t one = threshold[32 * word + b];
        least_here = least(least_here, static_cast<std::uint64_t>(one));
        if (one > plane_capacity) {
          continue;
        }
        planes.within |= 1u << b;
#if defined(__CUDA_ARCH__)
#  pragma unroll
#endif
        for (int k = 0; k < plane_count; ++k) {
          planes.plane[k] |= (static_cast<std::uint32_t>(one >> k) & 1u) << b;
        }
      }
      sliced[word] = planes;
      atomic_min(lowest, least_here);
    });
  }
};

/// Lists of all neurons, each in its place, in any order.
struct TriggerLists {
  const std::int64_t* offsets;  // [neurons + 1]
  std::uint64_t* found;         // [neurons], counted on where there is no place
  std::uint64_t* pair;          // neuron in the upper half, segment in the lower
  std::uint64_t* fires;

  PYNEURONS_HD void put(std::int64_t neuron, std::int64_t segment, std::uint64_t count) const {
    const std::int64_t k = static_cast<std::int64_t>(atomic_add(found + neuron, 1));
    if (k < offsets[neuron + 1] - offsets[neuron]) {
      pair[offsets[neuron] + k] =
          static_cast<std::uint64_t>(neuron) << 32 | static_cast<std::uint64_t>(segment);
      fires[offsets[neuron] + k] = count;
    }
  }
};

/// Lists every segment of 1 to `longest` rows for the neurons that reach their threshold on it.
struct TriggersJob {
  struct Shared {};

  Rows rows;
  const std::int64_t* segments;
  std::int64_t n_segments;
  std::int64_t longest;
  const ThresholdPlanes* sliced;
  const std::uint64_t* lowest;
  TriggerLists lists;
  Division division;  // a team takes the segments that begin in its rows

  PYNEURONS_HD std::int64_t teams() const { return division.teams(); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    const std::int64_t first_word = division.first_word(index);
    const std::int64_t begin = division.begin(index);
    const std::int64_t end = division.end(index);
    const std::int64_t stop =
        first_that(0, n_segments, [&](std::int64_t g) { return segments[g] >= end; });
    const std::int64_t shortest = *lowest > static_cast<std::uint64_t>(longest)
                                      ? longest + 1
                                      : static_cast<std::int64_t>(*lowest);
    PerLane<ThresholdPlanes> thresholds;
    team.each([&](int lane) {
      if (division.has(first_word + lane)) {
        thresholds[lane] = sliced[first_word + lane];
      }
    });
    for (std::int64_t g = first_that(0, stop, [&](std::int64_t i) { return segments[i] >= begin; });
         g < stop; ++g) {
      const std::int64_t length = segments[g + 1] - segments[g];
      if (length < shortest || length > longest) {
        continue;
      }
      team.each([&](int lane) {
        const std::int64_t word = first_word + lane;
        if (division.has(word)) {
          list(g, word, count_rows(rows, segments[g], segments[g + 1], word), bit_length(length),
               thresholds[lane]);
        }
      });
    }
  }

  PYNEURONS_HD void list(std::int64_t segment, std::int64_t word, const BitPlanes& planes, int used,
                         const ThresholdPlanes& thresholds) const {
    // From the lowest bit up: count >= threshold in the bits so far.
    std::uint32_t enough = thresholds.within;
#if defined(__CUDA_ARCH__)
#  pragma unroll
#endif
    for (int k = 0; k < plane_count; ++k) {
      const std::uint32_t more = planes.plane[k] & ~thresholds.plane[k];
      const std::uint32_t differ = planes.plane[k] ^ thresholds.plane[k];
      enough = (more | (enough & ~differ)) & thresholds.within;
    }
    for (; enough != 0; enough &= enough - 1) {
      const int position = lowest_bit(enough);
      lists.put(32 * word + position, segment, number_at(planes.plane, used, position));
    }
  }
};

/// Lists segments whose counts are dense.
struct DenseTriggersJob {
  struct Shared {};

  const std::uint64_t* counts;  // [number, neurons]
  std::int64_t first;           // segment of the first row
  std::int64_t number;
  std::int64_t neurons;
  const std::int64_t* threshold;
  TriggerLists lists;

  PYNEURONS_HD std::int64_t teams() const { return divided_up(number * neurons, lanes); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    team.each([&](int lane) {
      const std::int64_t cell = index * lanes + lane;
      if (cell < number * neurons &&
          counts[cell] >= static_cast<std::uint64_t>(threshold[cell % neurons])) {
        lists.put(cell % neurons, first + cell / neurons, counts[cell]);
      }
    });
  }
};

/// The first neuron whose list does not fill its place exactly.
struct CheckListsJob {
  struct Shared {};

  const std::int64_t* offsets;
  const std::uint64_t* found;
  std::int64_t neurons;
  std::uint64_t* contradiction;

  PYNEURONS_HD std::int64_t teams() const { return divided_up(neurons, lanes); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    team.each([&](int lane) {
      const std::int64_t f = index * lanes + lane;
      if (f < neurons && found[f] != static_cast<std::uint64_t>(offsets[f + 1] - offsets[f])) {
        atomic_min(contradiction, static_cast<std::uint64_t>(f));
      }
    });
  }
};

/// Sorted pairs as the columns of the result.
struct UnpackPairsJob {
  struct Shared {};

  const std::uint64_t* pair;
  const std::uint64_t* count;
  std::int64_t number;
  std::int32_t* segment_of;
  std::int64_t* fires;

  PYNEURONS_HD std::int64_t teams() const { return divided_up(number, lanes); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    team.each([&](int lane) {
      const std::int64_t k = index * lanes + lane;
      if (k < number) {
        segment_of[k] = static_cast<std::int32_t>(pair[k]);
        fires[k] = static_cast<std::int64_t>(count[k]);
      }
    });
  }
};

/// Rows per piece at least: a team reads 128 bytes of thresholds per plane before it begins.
inline constexpr std::int64_t fewest_listed_rows = 256;

/// See pyneurons/ngram_triggers.hpp. `entries` is the last offset; `longest` as in ngram_coverage.
template <typename Device>
void ngram_triggers(Device& device, const Rows& rows, const SegmentBounds& segments,
                    std::int64_t neurons, const std::int64_t* threshold,
                    const std::int64_t* offsets, std::int64_t entries, std::int32_t* segment_of,
                    std::int64_t* fires, std::int64_t longest = longest_of_one_team) {
  const auto sliced = device.template zeros<ThresholdPlanes>(divided_up(neurons, 32));
  const auto found = device.template zeros<std::uint64_t>(neurons);
  const auto pairs = device.template zeros<std::uint64_t>(entries);
  const auto counts = device.template zeros<std::uint64_t>(entries);
  const auto scalars = device.template zeros<std::uint64_t>(2);
  std::uint64_t* const lowest = scalars.data();
  std::uint64_t* const contradiction = scalars.data() + 1;
  device.fill_ones(scalars.data(), 2);
  const TriggerLists lists{offsets, found.data(), pairs.data(), counts.data()};

  device.run(SliceThresholdsJob{threshold, neurons, sliced.data(), lowest});
  device.run(TriggersJob{rows, segments.device, segments.number, longest, sliced.data(), lowest,
                         lists,
                         divide(segments.host[0], segments.host[segments.number], neurons,
                                device.teams_wanted(), fewest_listed_rows)});
  for (std::int64_t g = 0; g < segments.number;) {
    std::int64_t end = g;
    while (end < segments.number && segments.length(end) > longest) {
      ++end;
    }
    in_dense_runs(
        device, rows, segments, g, end, neurons,
        [&](std::int64_t first, std::int64_t last, const std::uint64_t* dense) {
          device.run(DenseTriggersJob{dense, first, last - first, neurons, threshold, lists});
        });
    g = end + 1;
  }
  device.run(CheckListsJob{offsets, found.data(), neurons, contradiction});
  const std::uint64_t wrong = device.read(contradiction);
  if (wrong != none) {
    throw Contradiction(static_cast<std::int64_t>(wrong),
                        static_cast<std::int64_t>(device.read(found.data() + wrong)));
  }
  device.sort_pairs(pairs.data(), counts.data(), entries, 32 + bit_length(neurons));
  device.run(UnpackPairsJob{pairs.data(), counts.data(), entries, segment_of, fires});
}

}  // namespace pyneurons::cuda
