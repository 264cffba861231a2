#include "bit_planes.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// The largest count that stays in bit planes until the end of the pass.
constexpr int few = 15;

/// Bit-sliced counters of how many segments gave each count: [count][vector][plane].
struct Tallies {
  Vec plane[few + 1][vectors(NgramCoverageJob::max_words)][plane_count];
  std::int64_t segments;  // added since the last flush

  void clear() {
    for (auto& of_count : plane) {
      for (auto& of_vector : of_count) {
        for (Vec& one : of_vector) {
          one = zero();
        }
      }
    }
    segments = 0;
  }

  void flush(const NgramCoverageJob& job, WordRange words) {
    const std::int64_t neurons = neurons_of(words, job.neurons);
    const int used = bit_length(segments);
    for (int c = 1; c <= few && used > 0; ++c) {
      bool present = false;
      for (const auto& of_vector : plane[c]) {
        for (const Vec& one : of_vector) {
          present = present || any(one);
        }
      }
      // The row does not exist where no segment is that long.
      if (!present) {
        continue;
      }
      std::int32_t* row = job.histogram + c * job.neurons + 32 * words.begin;
      for (std::int64_t v = 0; 32 * v * vec_words < neurons; ++v) {
        const std::int64_t first = 32 * v * vec_words;
        add_counts(plane[c][v], used, neurons - first, row + first);
      }
    }
    clear();
  }
};

/// Adds the counts of one vector, none above fifteen, from their four bit planes.
inline void tally(const Vec* plane, std::int64_t v, Tallies& tallies) {
  // low[i] and high[i]: whose last two and first two bits of the count are i.
  const Vec either = bit_or(plane[0], plane[1]);
  const Vec low[4] = {zero(), and_not(plane[0], plane[1]), and_not(plane[1], plane[0]),
                      bit_and(plane[0], plane[1])};
  const Vec above = bit_or(plane[2], plane[3]);
  const Vec high[4] = {zero(), and_not(plane[2], plane[3]), and_not(plane[3], plane[2]),
                       bit_and(plane[2], plane[3])};
  for (int i = 1; i < 4; ++i) {
    ripple(tallies.plane[i][v], and_not(low[i], above));
  }
  for (int h = 1; h < 4; ++h) {
    if (!any(high[h])) {
      continue;
    }
    ripple(tallies.plane[4 * h][v], and_not(high[h], either));
    for (int i = 1; i < 4; ++i) {
      ripple(tallies.plane[4 * h + i][v], bit_and(high[h], low[i]));
    }
  }
}

/// Adds one vector of a segment of 2 to few rows: who fires once, twice, ... on them.
template <bool full>
inline void tally_rows(const std::uint32_t* const* rows, std::int64_t length, std::int64_t offset,
                       int count, std::int64_t v, Tallies& tallies) {
  Vec first = load_words<full>(rows[0] + offset, count);
  const Vec second = load_words<full>(rows[1] + offset, count);
  if (length == 2) {
    ripple(tallies.plane[1][v], bit_xor(first, second));
    ripple(tallies.plane[2][v], bit_and(first, second));
    return;
  }
  if (length == 3) {
    Vec twos;
    full_add(first, second, load_words<full>(rows[2] + offset, count), twos);
    ripple(tallies.plane[1][v], and_not(first, twos));
    ripple(tallies.plane[2][v], and_not(twos, first));
    ripple(tallies.plane[3][v], bit_and(first, twos));
    return;
  }
  Vec plane[5] = {zero(), zero(), zero(), zero(), zero()};
  add_few<full>(rows, length, offset, count, plane);
  tally(plane, v, tallies);
}

/// Adds one vector of a longer segment to the histogram, neuron by neuron.
inline void scatter(const Vec* plane, int used, std::int64_t first, const NgramCoverageJob& job) {
  std::int32_t counts[32 * vec_words] = {};
  const std::int64_t neurons = least(32 * vec_words, job.neurons - first);
  add_counts(plane, used, neurons, counts);
  std::int32_t* column = job.histogram + first;
  for (std::int64_t f = 0; f < neurons; ++f) {
    // Count 0 goes to row 0, which nobody reads: cheaper than a branch.
    ++column[counts[f] * job.neurons + f];
  }
}

/// Adds one vector of a longer segment: counts up to fifteen to the tallies, the few others one by
/// one. Most neurons fire rarely: a segment of 16 to 100 rows takes a tenth of what `scatter`
/// takes.
inline void tally_long(const Vec* plane, int used, std::int64_t v, std::int64_t first,
                       const NgramCoverageJob& job, Tallies& tallies) {
  constexpr int most_alone = 32 * vec_words / 8;
  Vec above = zero();
  for (int k = 4; k < used; ++k) {
    above = bit_or(above, plane[k]);
  }
  if (any(above)) {
    std::uint32_t alone[vec_words];
    store(alone, above);
    int number = 0;
    for (int w = 0; w < vec_words; ++w) {
      number += __builtin_popcount(alone[w]);
    }
    if (number > most_alone) {
      scatter(plane, used, first, job);
      return;
    }
    std::uint32_t words[plane_count][vec_words];
    for (int k = 0; k < used; ++k) {
      store(words[k], plane[k]);
    }
    for (int w = 0; w < vec_words; ++w) {
      for (std::uint32_t rest = alone[w]; rest != 0; rest &= rest - 1) {
        const int b = __builtin_ctz(rest);
        std::int64_t count = 0;
        for (int k = 0; k < used; ++k) {
          count |= std::int64_t{(words[k][w] >> b) & 1u} << k;
        }
        const std::int64_t f = first + 32 * w + b;
        // Bits behind the last neuron may be set.
        if (f < job.neurons) {
          ++job.histogram[count * job.neurons + f];
        }
      }
    }
  }
  Vec small[4];
  for (int k = 0; k < 4; ++k) {
    small[k] = and_not(plane[k], above);
  }
  tally(small, v, tallies);
}

}  // namespace

Isa ngram_coverage(const NgramCoverageJob& job, WordRange words) {
  const std::int64_t width = words.end - words.begin;
  const std::int64_t neurons = neurons_of(words, job.neurons);
  Prefetcher prefetcher(job.rows, words, job.segments[job.first]);
  std::int64_t g = job.first;

  Tallies tallies;
  tallies.clear();
  for (; g < job.last; ++g) {
    const std::int64_t begin = job.segments[g];
    const std::int64_t length = job.segments[g + 1] - begin;
    if (length > few) {
      break;
    }
    prefetcher.reach(begin);
    const std::uint32_t* row[few];
    for (std::int64_t k = 0; k < length; ++k) {
      row[k] = prefetcher.row(begin + k);
    }
    std::int64_t v = 0;
    for (; (v + 1) * vec_words <= width; ++v) {
      tally_rows<true>(row, length, v * vec_words, vec_words, v, tallies);
    }
    if (v * vec_words < width) {
      tally_rows<false>(row, length, v * vec_words, static_cast<int>(width - v * vec_words), v,
                        tallies);
    }
    if (++tallies.segments == plane_capacity) {
      tallies.flush(job, words);
    }
  }

  Vec planes[vectors(NgramCoverageJob::max_words) * plane_slots];
  for (; g < job.last; ++g) {
    const std::int64_t begin = job.segments[g];
    const std::int64_t end = job.segments[g + 1];
    if (end - begin > plane_capacity) {
      break;
    }
    const int used = count_planes(begin, end, prefetcher, planes);
    for (std::int64_t v = 0; v < vectors(width); ++v) {
      tally_long(planes + v * plane_slots, used, v, 32 * (words.begin + v * vec_words), job,
                 tallies);
    }
    if (++tallies.segments == plane_capacity) {
      tallies.flush(job, words);
    }
  }
  tallies.flush(job, words);
  for (; g < job.last; ++g) {
    std::int32_t counts[32 * NgramCoverageJob::max_words] = {};
    count_rows(job.segments[g], job.segments[g + 1], prefetcher, planes, neurons, counts);
    std::int32_t* column = job.histogram + 32 * words.begin;
    for (std::int64_t f = 0; f < neurons; ++f) {
      ++column[counts[f] * job.neurons + f];
    }
  }
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
