#include "pyneurons/segment_counts.hpp"

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pyneurons {

void segment_counts(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    std::int64_t order_length, const std::int64_t* segments,
                    MatrixView<std::int64_t> counts, Isa isa, int threads) {
  const Kernels& table = kernels(isa);
  const SegmentCountsJob job{{mask, order, order_length}, segments, counts};
  parallel_words(
      (counts.cols + 31) / 32, SegmentCountsJob::max_words, threads,
      [&](WordRange words) { record(Op::segment_counts, table.segment_counts(job, words)); });
}

}  // namespace pyneurons
