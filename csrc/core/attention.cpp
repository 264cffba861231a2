#include "pyneurons/attention.hpp"

#include <cmath>
#include <cstddef>

#include "kernel_table.hpp"
#include "parallel.hpp"
#include "pyneurons/panels.hpp"
#include "scratch.hpp"

namespace pyneurons {
namespace {

/// Bytes for a head of a sequence: its keys and values as panels; a block of queries, weights,
/// scores and sums, of which the first two may be f32.
std::size_t scratch_size(std::int64_t length, std::int64_t head_size) {
  constexpr std::int64_t block = AttentionJob::block;
  const std::int64_t width = panels_of(nullptr, 1, head_size).chunks * Panels::chunk;
  const std::int64_t blocks = (length + block - 1) / block;
  return static_cast<std::size_t>(block * (2 * blocks * width * 2 + 2 * (width + block) * 4));
}

}  // namespace

void attention(MatrixView<const std::uint16_t> qkv, const std::int64_t* starts,
               std::int64_t sequences, std::int64_t heads, MatrixView<std::uint16_t> out, Isa isa,
               int threads) {
  const std::int64_t head_size = out.cols / heads;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_size)));
  const AttentionJob job{qkv, starts, head_size, scale, out};
  const auto kernel = kernels(isa).attention;
  parallel(sequences * heads, threads, [&](std::int64_t piece) {
    thread_local Scratch scratch;
    const std::int64_t sequence = piece / heads;
    const std::int64_t length = starts[sequence + 1] - starts[sequence];
    unsigned char* place = scratch.take(scratch_size(length, head_size));
    record(Op::attention, kernel(job, place, sequence, piece % heads));
  });
}

}  // namespace pyneurons
