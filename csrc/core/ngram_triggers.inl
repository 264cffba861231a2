#include "bit_planes.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr int threshold_bits = 31;

/// Thresholds as bit planes, per vector.
struct Thresholds {
  Vec bit[threshold_bits];
  Vec below[threshold_bits + 1];  // below[k]: neurons with a threshold under 2^k
  std::int64_t lowest;

  /// Neurons whose threshold is at most `count`.
  Vec at_most(std::int64_t count) const {
    const int used = bit_length(count);
    Vec counts[plane_count];
    for (int k = 0; k < used; ++k) {
      counts[k] = ((count >> k) & 1) != 0 ? ones() : zero();
    }
    return reached(counts, used);
  }

  /// Neurons whose count, given as bit planes, is at least their threshold.
  Vec reached(const Vec* planes, int used) const {
    // From the lowest bit up: count >= threshold in the bits so far.
    Vec enough = below[used];
    for (int k = 0; k < used; ++k) {
      const Vec more = and_not(planes[k], bit[k]);
      const Vec differ = bit_xor(planes[k], bit[k]);
      enough = bit_or(more, and_not(enough, differ));
    }
    return bit_and(enough, below[used]);
  }
};

inline void slice(const NgramTriggersJob& job, std::int64_t first, std::int64_t neurons,
                  Thresholds& thresholds) {
  std::uint32_t bit[threshold_bits][vec_words] = {};
  std::uint32_t below[threshold_bits + 1][vec_words] = {};
  thresholds.lowest = INT64_MAX;
  for (std::int64_t f = 0; f < neurons && f < 32 * vec_words; ++f) {
    const std::int64_t threshold = job.threshold[first + f];
    const std::uint32_t mine = 1u << (f % 32);
    thresholds.lowest = least(thresholds.lowest, threshold);
    for (int k = 0; k < threshold_bits; ++k) {
      bit[k][f / 32] |= ((threshold >> k) & 1) != 0 ? mine : 0u;
    }
    for (int k = bit_length(threshold); k <= threshold_bits; ++k) {
      below[k][f / 32] |= mine;
    }
  }
  for (int k = 0; k < threshold_bits; ++k) {
    thresholds.bit[k] = load(bit[k]);
  }
  for (int k = 0; k <= threshold_bits; ++k) {
    thresholds.below[k] = load(below[k]);
  }
}

inline void put(const NgramTriggersJob& job, std::int64_t neuron, std::int64_t segment,
                std::int32_t count) {
  job.list->entries[job.list->number++] = {static_cast<std::int32_t>(neuron),
                                           static_cast<std::int32_t>(segment), count};
}

/// Lists a segment for the neurons `hits` of one vector, with their counts.
inline void list(const NgramTriggersJob& job, std::int64_t segment, std::int64_t first, Vec hits,
                 const Vec* planes, int used) {
  if (!any(hits)) {
    return;
  }
  std::uint32_t hit[vec_words];
  std::uint32_t words[plane_count][vec_words];
  store(hit, hits);
  for (int k = 0; k < used; ++k) {
    store(words[k], planes[k]);
  }
  for (int w = 0; w < vec_words; ++w) {
    for (std::uint32_t rest = hit[w]; rest != 0; rest &= rest - 1) {
      const int b = __builtin_ctz(rest);
      std::uint32_t count = 0;
      for (int k = 0; k < used; ++k) {
        count |= ((words[k][w] >> b) & 1u) << k;
      }
      put(job, first + 32 * w + b, segment, static_cast<std::int32_t>(count));
    }
  }
}

/// Lists a segment of fewer than tile_rows rows for the neurons of one vector, of which only
/// `wanted` may list so short a segment. Where none of them fires on it, nothing is counted.
template <bool full>
inline void list_rows(const NgramTriggersJob& job, std::int64_t segment, std::int64_t first,
                      const std::uint32_t* const* rows, std::int64_t length, std::int64_t offset,
                      int count, Vec wanted, const Thresholds& thresholds) {
  Vec fires = load_words<full>(rows[0] + offset, count);
  for (std::int64_t i = 1; i < length; ++i) {
    fires = bit_or(fires, load_words<full>(rows[i] + offset, count));
  }
  if (!any(bit_and(fires, wanted))) {
    return;
  }
  Vec planes[5] = {fires, zero(), zero(), zero(), zero()};
  if (length > 1) {
    planes[0] = zero();
    add_few<full>(rows, length, offset, count, planes);
  }
  const int used = bit_length(length);
  list(job, segment, first, thresholds.reached(planes, used), planes, used);
}

}  // namespace

Isa ngram_triggers(const NgramTriggersJob& job, WordRange words) {
  constexpr std::int64_t most_vectors = vectors(NgramTriggersJob::max_words);
  const std::int64_t neurons = neurons_of(words, job.neurons);
  const std::int64_t n_vectors = vectors(words.end - words.begin);
  Thresholds thresholds[most_vectors];
  std::int64_t lowest = INT64_MAX;
  for (std::int64_t v = 0; v < n_vectors; ++v) {
    const std::int64_t first = 32 * v * vec_words;
    slice(job, 32 * words.begin + first, neurons - first, thresholds[v]);
    lowest = least(lowest, thresholds[v].lowest);
  }
  const std::int64_t width = words.end - words.begin;
  Vec planes[most_vectors * plane_slots];
  Vec wanted[most_vectors];         // who may list a segment as long as the last one
  std::int64_t wanted_length = -1;  // of that one; segments of one length mostly lie together
  std::int64_t& g = job.list->next;
  Prefetcher prefetcher(job.rows, words, job.segments[g]);
  for (; g < job.last; ++g) {
    if (job.list->number > NgramTriggersJob::list_capacity - neurons) {
      break;
    }
    const std::int64_t begin = job.segments[g];
    const std::int64_t end = job.segments[g + 1];
    const std::int64_t length = end - begin;
    if (length < lowest || length == 0) {
      // Nobody asks for so short a segment, so nothing is read ahead either.
      prefetcher.leave_out(end);
      continue;
    }
    if (length < tile_rows) {
      if (length != wanted_length) {
        wanted_length = length;
        for (std::int64_t v = 0; v < n_vectors; ++v) {
          wanted[v] = thresholds[v].at_most(length);
        }
      }
      prefetcher.reach(begin);
      const std::uint32_t* row[tile_rows];
      for (std::int64_t k = 0; k < length; ++k) {
        row[k] = prefetcher.row(begin + k);
      }
      for (std::int64_t v = 0; v < n_vectors; ++v) {
        if (length < thresholds[v].lowest) {
          continue;
        }
        const std::int64_t offset = v * vec_words;
        const std::int64_t first = 32 * (words.begin + offset);
        if (offset + vec_words <= width) {
          list_rows<true>(job, g, first, row, length, offset, vec_words, wanted[v], thresholds[v]);
        } else {
          list_rows<false>(job, g, first, row, length, offset, static_cast<int>(width - offset),
                           wanted[v], thresholds[v]);
        }
      }
      continue;
    }
    if (length <= plane_capacity) {
      const int used = count_planes(begin, end, prefetcher, planes);
      for (std::int64_t v = 0; v < n_vectors; ++v) {
        const Vec* own = planes + v * plane_slots;
        list(job, g, 32 * (words.begin + v * vec_words), thresholds[v].reached(own, used), own,
             used);
      }
      continue;
    }
    std::int32_t counts[32 * NgramTriggersJob::max_words] = {};
    count_rows(begin, end, prefetcher, planes, neurons, counts);
    for (std::int64_t f = 0; f < neurons; ++f) {
      if (counts[f] >= job.threshold[32 * words.begin + f]) {
        put(job, 32 * words.begin + f, g, counts[f]);
      }
    }
  }
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
