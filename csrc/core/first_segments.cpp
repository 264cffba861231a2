#include "pyneurons/first_segments.hpp"

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pyneurons {

void first_segments(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    std::int64_t order_length, const std::int64_t* segments,
                    std::int64_t n_segments, const std::int64_t* count,
                    MatrixView<std::int32_t> found_segments, std::int64_t* found, Isa isa,
                    int threads) {
  const Kernels& table = kernels(isa);
  const FirstSegmentsJob job{
      {mask, order, order_length}, segments, n_segments, count, found_segments, found};
  parallel_words(
      (found_segments.rows + 31) / 32, FirstSegmentsJob::max_words, threads,
      [&](WordRange words) { record(Op::first_segments, table.first_segments(job, words)); });
}

}  // namespace pyneurons
