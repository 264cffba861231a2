#include "bit_planes.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// What the neurons of one vector look for, as bit planes; longer counts are none of theirs.
struct Sought {
  Vec bit[plane_count];
  std::uint32_t below[plane_count + 1][vec_words];  // below[k]: who looks for a count under 2^k
  std::int64_t looking;                             // neurons that look
  std::int64_t lowest;                              // count that was looked for at the beginning

  /// Neurons whose count, given as bit planes, is the one they look for.
  Vec met(const Vec* planes, int used) const {
    Vec equal = load(below[used]);
    for (int k = 0; k < used; ++k) {
      equal = and_not(equal, bit_xor(planes[k], bit[k]));
    }
    return equal;
  }

  void leave(std::int64_t f) {
    for (auto& words : below) {
      words[f / 32] &= ~(1u << (f % 32));
    }
    --looking;
  }
};

/// All neurons of a piece that look.
struct Seeking {
  const FirstSegmentsJob& job;
  std::int64_t first;  // neuron
  Sought sought[vectors(FirstSegmentsJob::max_words)];
  std::int64_t vector[vectors(FirstSegmentsJob::max_words)];  // those with a neuron that looks
  std::int64_t n_vectors;
  std::int64_t lowest;

  bool looks(std::int64_t neuron) const { return job.found[neuron] < job.found_segments.cols; }

  void begin(std::int64_t neurons) {
    for (std::int64_t v = 0; 32 * v * vec_words < neurons; ++v) {
      slice(sought[v], first + 32 * v * vec_words,
            least(neurons - 32 * v * vec_words, 32 * vec_words));
      vector[n_vectors++] = v;
    }
    list_vectors();
  }

  /// Leaves out vectors in which nobody looks any more.
  void list_vectors() {
    const std::int64_t before = n_vectors;
    n_vectors = 0;
    lowest = INT64_MAX;
    for (std::int64_t i = 0; i < before; ++i) {
      const Sought& own = sought[vector[i]];
      if (own.looking > 0) {
        lowest = least(lowest, own.lowest);
        vector[n_vectors++] = vector[i];
      }
    }
  }

  /// Notes a segment for the neurons `hits` of one vector; whether the last of them has all.
  bool note(std::int64_t segment, std::int64_t v, Vec hits) {
    if (!any(hits)) {
      return false;
    }
    std::uint32_t hit[vec_words];
    store(hit, hits);
    for (int w = 0; w < vec_words; ++w) {
      for (std::uint32_t rest = hit[w]; rest != 0; rest &= rest - 1) {
        put(segment, 32 * (v * vec_words + w) + __builtin_ctz(rest));
      }
    }
    return sought[v].looking == 0;
  }

  void put(std::int64_t segment, std::int64_t f) {
    const std::int64_t neuron = first + f;
    job.found_segments.data[neuron * job.found_segments.row_stride + job.found[neuron]++] =
        static_cast<std::int32_t>(segment);
    if (!looks(neuron)) {
      sought[f / (32 * vec_words)].leave(f % (32 * vec_words));
    }
  }

 private:
  void slice(Sought& own, std::int64_t from, std::int64_t neurons) const {
    std::uint32_t bit[plane_count][vec_words] = {};
    own.lowest = INT64_MAX;
    for (std::int64_t f = 0; f < neurons; ++f) {
      if (!looks(from + f)) {
        continue;
      }
      const std::int64_t count = job.count[from + f];
      const std::uint32_t mine = 1u << (f % 32);
      ++own.looking;
      own.lowest = least(own.lowest, count);
      for (int k = 0; k < plane_count; ++k) {
        bit[k][f / 32] |= ((count >> k) & 1) != 0 ? mine : 0u;
      }
      for (int k = bit_length(count); k <= plane_count; ++k) {
        own.below[k][f / 32] |= mine;
      }
    }
    for (int k = 0; k < plane_count; ++k) {
      own.bit[k] = load(bit[k]);
    }
  }
};

/// Who fires exactly as often as they look for on fewer than tile_rows rows.
template <bool full>
inline Vec met_on(const Sought& sought, const std::uint32_t* const* rows, std::int64_t length,
                  std::int64_t offset, int count) {
  Vec planes[5] = {load_words<full>(rows[0] + offset, count), zero(), zero(), zero(), zero()};
  if (length > 1) {
    planes[0] = zero();
    add_few<full>(rows, length, offset, count, planes);
  }
  return sought.met(planes, bit_length(length));
}

}  // namespace

Isa first_segments(const FirstSegmentsJob& job, WordRange words) {
  const std::int64_t width = words.end - words.begin;
  const std::int64_t neurons = neurons_of(words, job.found_segments.rows);
  Seeking seeking{job, 32 * words.begin, {}, {}, 0, 0};
  seeking.begin(neurons);
  Prefetcher prefetcher(job.rows, words, job.segments[0]);
  Vec planes[vectors(FirstSegmentsJob::max_words) * plane_slots];
  for (std::int64_t g = 0; g < job.n_segments && seeking.n_vectors > 0; ++g) {
    const std::int64_t begin = job.segments[g];
    const std::int64_t end = job.segments[g + 1];
    const std::int64_t length = end - begin;
    if (length < seeking.lowest) {
      prefetcher.leave_out(end);
      continue;
    }
    bool done = false;
    if (length < tile_rows) {
      prefetcher.reach(begin);
      const std::uint32_t* row[tile_rows];
      for (std::int64_t k = 0; k < length; ++k) {
        row[k] = prefetcher.row(begin + k);
      }
      for (std::int64_t i = 0; i < seeking.n_vectors; ++i) {
        const std::int64_t v = seeking.vector[i];
        const std::int64_t offset = v * vec_words;
        const Sought& sought = seeking.sought[v];
        const Vec hits =
            offset + vec_words <= width
                ? met_on<true>(sought, row, length, offset, vec_words)
                : met_on<false>(sought, row, length, offset, static_cast<int>(width - offset));
        done |= seeking.note(g, v, hits);
      }
    } else if (length <= plane_capacity) {
      const int used = count_planes(begin, end, prefetcher, planes);
      for (std::int64_t i = 0; i < seeking.n_vectors; ++i) {
        const std::int64_t v = seeking.vector[i];
        done |= seeking.note(g, v, seeking.sought[v].met(planes + v * plane_slots, used));
      }
    } else {
      std::int64_t counts[32 * FirstSegmentsJob::max_words] = {};
      count_rows(begin, end, prefetcher, planes, neurons, counts);
      for (std::int64_t f = 0; f < neurons; ++f) {
        const std::int64_t neuron = seeking.first + f;
        if (seeking.looks(neuron) && counts[f] == job.count[neuron]) {
          seeking.put(g, f);
        }
      }
      done = true;  // perhaps
    }
    if (done) {
      seeking.list_vectors();
    }
  }
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
