#include "pyneurons/ngram_triggers.hpp"

#include <algorithm>
#include <memory>
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
  // Into scratch first: should the lists not fill their places, the outputs are as they were.
  const std::int64_t listed = offsets[neurons];
  std::vector<std::int64_t> found(static_cast<std::size_t>(neurons));
  const auto new_segment_of =
      std::make_unique_for_overwrite<std::int32_t[]>(static_cast<std::size_t>(listed));
  const auto new_fires =
      std::make_unique_for_overwrite<std::int32_t[]>(static_cast<std::size_t>(listed));
  const NgramTriggersJob job{{mask, order, order_length},
                             segments,
                             n_segments,
                             neurons,
                             threshold,
                             offsets,
                             found.data(),
                             new_segment_of.get(),
                             new_fires.get()};
  parallel_words((neurons + 31) / 32, NgramTriggersJob::max_words, threads, [&](WordRange words) {
    record(Op::ngram_triggers, table.ngram_triggers(job, words));
  });
  for (std::int64_t f = 0; f < neurons; ++f) {
    if (job.found[f] != offsets[f + 1] - offsets[f]) {
      throw Contradiction(f, job.found[f]);
    }
  }
  std::copy_n(new_segment_of.get(), listed, segment_of);
  std::copy_n(new_fires.get(), listed, fires);
}

}  // namespace pyneurons
