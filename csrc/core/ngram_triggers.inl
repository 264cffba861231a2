#include "bit_planes.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr int threshold_bits = 31;

/// Thresholds as bit planes, per vector.
struct Thresholds {
  Vec bit[threshold_bits];
  Vec below[threshold_bits + 1];  // below[k]: neurons with a threshold under 2^k
  std::int64_t lowest;
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

/// Lists a segment for one neuron, while there is room.
inline void put(const NgramTriggersJob& job, std::int64_t neuron, std::int64_t segment,
                std::int32_t count) {
  const std::int64_t place = job.offsets[neuron] + job.found[neuron]++;
  if (place < job.offsets[neuron + 1]) {
    job.segment_of[place] = static_cast<std::int32_t>(segment);
    job.fires[place] = count;
  }
}

/// Lists a segment for the neurons of one vector that fire in it often enough.
inline void list(const NgramTriggersJob& job, std::int64_t segment, std::int64_t first,
                 const Vec* planes, int used, const Thresholds& thresholds) {
  // From the lowest bit up: count >= threshold in the bits so far.
  Vec enough = thresholds.below[used];
  for (int k = 0; k < used; ++k) {
    const Vec bit = thresholds.bit[k];
    const Vec more = and_not(planes[k], bit);
    const Vec differ = bit_xor(planes[k], bit);
    enough = bit_or(more, and_not(enough, differ));
  }
  enough = bit_and(enough, thresholds.below[used]);
  if (!any(enough)) {
    return;
  }
  std::uint32_t hit[vec_words];
  std::uint32_t words[plane_count][vec_words];
  store(hit, enough);
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
  Vec planes[most_vectors * plane_count];
  Prefetcher prefetcher{&job.rows, words, job.segments[0]};
  for (std::int64_t g = 0; g < job.n_segments; ++g) {
    const std::int64_t begin = job.segments[g];
    const std::int64_t end = job.segments[g + 1];
    if (end - begin < lowest) {
      // Nobody asks for so short a segment, so nothing is read ahead either.
      prefetcher.next = prefetcher.next < end ? end : prefetcher.next;
      continue;
    }
    if (end - begin <= plane_capacity) {
      const int used = count_planes(job.rows, begin, end, words, prefetcher, planes);
      for (std::int64_t v = 0; v < n_vectors; ++v) {
        list(job, g, 32 * (words.begin + v * vec_words), planes + v * plane_count, used,
             thresholds[v]);
      }
      continue;
    }
    std::int32_t counts[32 * NgramTriggersJob::max_words] = {};
    count_rows(job.rows, begin, end, words, prefetcher, planes, neurons, counts);
    for (std::int64_t f = 0; f < neurons; ++f) {
      if (counts[f] >= job.threshold[32 * words.begin + f]) {
        put(job, 32 * words.begin + f, g, counts[f]);
      }
    }
  }
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
