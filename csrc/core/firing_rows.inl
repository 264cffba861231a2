#include "bit_planes.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// The neurons of a piece that still want rows.
struct Wanting {
  std::uint32_t words[FiringRowsJob::max_words + vec_words];
  std::int64_t vector[FiringRowsJob::max_words];  // vectors with a wanting neuron
  std::int64_t n_vectors;

  void list_vectors(std::int64_t width) {
    n_vectors = 0;
    for (std::int64_t v = 0; v < vectors(width); ++v) {
      if (any(load(words + v * vec_words))) {
        vector[n_vectors++] = v;
      }
    }
  }
};

/// Rows that are looked at together: as long as nobody waits for a fire of theirs, that is all.
constexpr std::int64_t group_rows = 8;

/// Words `v` of one row.
inline Vec words_of(const std::uint32_t* row, std::int64_t v, std::int64_t width) {
  const std::int64_t count = least(vec_words, width - v * vec_words);
  return count == vec_words ? load(row + v * vec_words)
                            : load_first(row + v * vec_words, static_cast<int>(count));
}

/// Notes a row for the neurons of `hits`; whether one of them has reached the limit.
inline bool note(const FiringRowsJob& job, WordRange words, std::int64_t row, std::int64_t v,
                 Vec hits, Wanting& wanting) {
  std::uint32_t hit[vec_words];
  store(hit, hits);
  bool full = false;
  for (int k = 0; k < vec_words; ++k) {
    const std::int64_t w = v * vec_words + k;
    for (std::uint32_t rest = hit[k]; rest != 0; rest &= rest - 1) {
      const int b = __builtin_ctz(rest);
      const std::int64_t neuron = 32 * (words.begin + w) + b;
      job.found_rows.data[neuron * job.found_rows.row_stride + job.found[neuron]++] = row;
      if (job.found[neuron] == job.found_rows.cols) {
        wanting.words[w] &= ~(1u << b);
        full = true;
      }
    }
  }
  return full;
}

}  // namespace

Isa firing_rows(const FiringRowsJob& job, WordRange words) {
  const std::int64_t width = words.end - words.begin;
  const std::int64_t neurons = neurons_of(words, job.found_rows.rows);
  Wanting wanting;
  for (std::uint32_t& word : wanting.words) {
    word = 0;
  }
  for (std::int64_t f = 0; f < neurons; ++f) {
    if (job.found[32 * words.begin + f] < job.found_rows.cols) {
      wanting.words[f / 32] |= 1u << (f % 32);
    }
  }
  wanting.list_vectors(width);
  Prefetcher prefetcher(job.rows, words, 0);
  for (std::int64_t i = 0; i < job.rows.length && wanting.n_vectors > 0; i += group_rows) {
    const std::int64_t n_rows = least(group_rows, job.rows.length - i);
    prefetcher.reach(i);
    const std::uint32_t* const* rows = prefetcher.list(i);
    bool full = false;
    for (std::int64_t k = 0; k < wanting.n_vectors; ++k) {
      const std::int64_t v = wanting.vector[k];
      Vec fires = zero();
      for (std::int64_t r = 0; r < n_rows; ++r) {
        fires = bit_or(fires, words_of(rows[r], v, width));
      }
      if (!any(bit_and(fires, load(wanting.words + v * vec_words)))) {
        continue;
      }
      for (std::int64_t r = 0; r < n_rows; ++r) {
        const Vec wants = load(wanting.words + v * vec_words);
        const Vec hits = bit_and(words_of(rows[r], v, width), wants);
        if (any(hits)) {
          full |= note(job, words, row_id(job.rows, i + r), v, hits, wanting);
        }
      }
    }
    if (full) {
      wanting.list_vectors(width);
    }
  }
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
