#include <algorithm>
#include <cstring>
#include <vector>

#include "kernel_table.hpp"
#include "parallel.hpp"
#include "pyneurons/linear.hpp"
#include "scratch.hpp"

namespace pyneurons {

void linear(MatrixView<const std::uint16_t> x, Panels weight, const std::uint16_t* bias,
            MatrixView<std::uint16_t> out, Isa isa, int threads) {
  std::vector<float> wide(static_cast<std::size_t>(weight.panels * Panels::width));
  for (std::int64_t i = 0; bias != nullptr && i < weight.columns; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(bias[i]) << 16;
    std::memcpy(&wide[static_cast<std::size_t>(i)], &bits, sizeof bits);
  }
  const LinearJob job{x, weight, wide.data(), out};
  const Kernels& table = kernels(isa);
  parallel((x.rows + LinearJob::block - 1) / LinearJob::block, threads, [&](std::int64_t block) {
    thread_local Scratch scratch;
    const std::int64_t begin = block * LinearJob::block;
    const std::int64_t end = std::min(x.rows, begin + LinearJob::block);
    record(Op::linear, table.linear(job, scratch.take(table.linear_space(job)), begin, end));
  });
}

}  // namespace pyneurons
