#include "pyneurons/attention.hpp"

#include <cmath>
#include <memory>
#include <vector>

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pyneurons {

void attention(MatrixView<const std::uint16_t> qkv, const std::int64_t* starts,
               std::int64_t sequences, std::int64_t heads, MatrixView<std::uint16_t> out, Isa isa,
               int threads) {
  const std::int64_t head_size = out.cols / heads;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_size)));
  const AttentionJob job{qkv, starts, head_size, scale, out};
  const auto kernel = kernels(isa).attention;
  parallel(sequences * heads, threads, [&](std::int64_t piece) {
    thread_local std::vector<float> scratch;  // kept from call to call
    const std::int64_t sequence = piece / heads;
    // Vectors that straddle cache lines would cost two loads each.
    constexpr std::size_t line = 64 / sizeof(float);
    const auto size =
        static_cast<std::size_t>(job.scratch_size(starts[sequence + 1] - starts[sequence]));
    if (scratch.size() < size + line) {
      scratch.resize(size + line);
    }
    void* place = scratch.data();
    std::size_t space = scratch.size() * sizeof(float);
    auto* aligned = static_cast<float*>(std::align(64, size * sizeof(float), place, space));
    record(Op::attention, kernel(job, aligned, sequence, piece % heads));
  });
}

}  // namespace pyneurons
