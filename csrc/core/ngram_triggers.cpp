#include "pyneurons/ngram_triggers.hpp"

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pyneurons {

void ngram_triggers(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    std::int64_t order_length, const std::int64_t* segments,
                    std::int64_t n_segments, std::int64_t neurons, const std::int64_t* threshold,
                    const std::int64_t* offsets, std::int32_t* segment_of, std::int64_t* fires,
                    Isa isa, int threads) {
  const Kernels& table = kernels(isa);
  const RowSource rows{mask, order, order_length};
  const Division division((neurons + 31) / 32, NgramTriggersJob::max_words,
                          segments[n_segments] - segments[0], threads);
  // Each run takes the segments that begin in it.
  const auto bound = [&](std::int64_t run) {
    return std::lower_bound(segments, segments + n_segments, segments[0] + division.bound(run)) -
           segments;
  };

  // By piece first: should the lists not fill their places, the outputs are as they were.
  struct Listed {
    std::vector<ListedNgram> entries;
    std::vector<std::int64_t> found;  // per neuron, counted on where there is no place
  };
  std::vector<Listed> pieces(static_cast<std::size_t>(division.pieces()));
  parallel_runs(division, threads, [&](const Piece& piece) {
    Listed& listed = pieces[static_cast<std::size_t>(piece.index)];
    listed.found.resize(static_cast<std::size_t>(neurons));
    const auto buffer =
        std::make_unique_for_overwrite<ListedNgram[]>(NgramTriggersJob::list_capacity);
    NgramList list{buffer.get(), 0, bound(piece.run)};
    const NgramTriggersJob job{rows, segments, bound(piece.run + 1), neurons, threshold, &list};
    while (list.next < job.last) {
      record(Op::ngram_triggers, table.ngram_triggers(job, piece.words));
      for (const ListedNgram& one :
           std::span(list.entries, static_cast<std::size_t>(list.number))) {
        if (++listed.found[static_cast<std::size_t>(one.neuron)] <=
            offsets[one.neuron + 1] - offsets[one.neuron]) {
          listed.entries.push_back(one);
        }
      }
      list.number = 0;
    }
  });

  std::vector<std::int64_t> place(offsets, offsets + neurons);
  for (std::int64_t f = 0; f < neurons; ++f) {
    std::int64_t found = 0;
    for (const Listed& listed : pieces) {
      found += listed.found[static_cast<std::size_t>(f)];
    }
    if (found != offsets[f + 1] - offsets[f]) {
      throw Contradiction(f, found);
    }
  }
  for (const Listed& listed : pieces) {
    for (const ListedNgram& one : listed.entries) {
      const std::int64_t k = place[static_cast<std::size_t>(one.neuron)]++;
      segment_of[k] = one.segment;
      fires[k] = one.fires;
    }
  }
}

}  // namespace pyneurons
