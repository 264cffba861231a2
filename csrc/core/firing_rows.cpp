#include "pyneurons/firing_rows.hpp"

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pyneurons {

void firing_rows(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                 std::int64_t order_length, MatrixView<std::int64_t> rows, std::int64_t* found,
                 Isa isa, int threads) {
  const Kernels& table = kernels(isa);
  const FiringRowsJob job{{mask, order, order_length}, rows, found};
  parallel_words((rows.rows + 31) / 32, FiringRowsJob::max_words, threads,
                 [&](WordRange words) { record(Op::firing_rows, table.firing_rows(job, words)); });
}

}  // namespace pyneurons
