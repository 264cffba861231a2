#include "pyneurons/attention.hpp"

#include <cmath>
#include <numbers>

#include "kernel_table.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace pyneurons {
void attention(MatrixView<const std::uint16_t> qkv, const std::int64_t* starts,
               std::int64_t sequences, std::int64_t heads, MatrixView<std::uint16_t> out, Isa isa,
               int threads) {
  const std::int64_t head_size = out.cols / heads;
  const float scale =
      static_cast<float>(std::numbers::log2e / std::sqrt(static_cast<double>(head_size)));
  const AttentionJob job{qkv, starts, head_size, scale, out};
  const Kernels& table = kernels(isa);
  parallel(sequences * heads, threads, [&](std::int64_t piece) {
    thread_local Scratch scratch;
    const std::int64_t sequence = piece / heads;
    const std::int64_t length = starts[sequence + 1] - starts[sequence];
    unsigned char* place = scratch.take(table.attention_space(job, length));
    record(Op::attention, table.attention(job, place, sequence, piece % heads));
  });
}

}  // namespace pyneurons
