#include "pyneurons/ffn.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <vector>

#include "kernel_table.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace pyneurons {
namespace {

/// In f32, zeros behind the last one.
std::vector<float> widened(const std::uint16_t* bias, std::int64_t count, std::int64_t padded) {
  std::vector<float> values(static_cast<std::size_t>(padded));
  for (std::int64_t i = 0; bias != nullptr && i < count; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(bias[i]) << 16;
    std::memcpy(&values[static_cast<std::size_t>(i)], &bits, sizeof bits);
  }
  return values;
}

/// Words behind those of the last panel are 0.
void clear_unused_words(const StripMask& mask, std::int64_t rows, std::int64_t panels) {
  for (std::int64_t word = panels; word < mask.strips * mask.strip_words; ++word) {
    std::uint32_t* place =
        mask.data + word / mask.strip_words * mask.strip_stride + word % mask.strip_words;
    for (std::int64_t row = 0; row < rows; ++row) {
      place[row * mask.row_stride] = 0;
    }
  }
}

}  // namespace

std::int64_t ffn(MatrixView<const std::uint16_t> x, Panels fc1, const std::uint16_t* fc1_bias,
                 Panels fc2, const std::uint16_t* fc2_bias, MatrixView<float> residual,
                 StripMask mask, float* z_max, Isa isa, int threads) {
  const std::int64_t neurons = fc1.panels * Panels::width;
  const std::vector<float> bias1 = widened(fc1_bias, fc1.columns, neurons);
  const std::vector<float> bias2 = widened(fc2_bias, fc2.columns, fc2.columns);
  const FfnJob job{x, fc1, bias1.data(), fc2, bias2.data(), residual, mask};
  const auto kernel = kernels(isa).ffn;
  const Space space = kernels(isa).ffn_space(job);
  clear_unused_words(mask, x.rows, fc1.panels);
  std::mutex mutex;
  std::int64_t first = -1;
  const std::int64_t blocks = (x.rows + space.rows - 1) / space.rows;
  const std::int64_t share = std::max<std::int64_t>(1, (blocks + threads - 1) / threads);
  parallel((blocks + share - 1) / share, threads, [&](std::int64_t piece) {
    thread_local Scratch scratch;
    unsigned char* place = scratch.take(space.bytes);
    std::vector<float> most(static_cast<std::size_t>(neurons),
                            -std::numeric_limits<float>::infinity());
    std::int64_t wrong = -1;
    const std::int64_t last = std::min(blocks, (piece + 1) * share);
    for (std::int64_t block = piece * share; block < last && wrong < 0; ++block) {
      const std::int64_t begin = block * space.rows;
      const std::int64_t end = std::min(x.rows, begin + space.rows);
      record(Op::ffn, kernel(job, place, begin, end, most.data(), &wrong));
    }
    const std::lock_guard lock(mutex);
    for (std::int64_t f = 0; f < fc1.columns; ++f) {
      z_max[f] = std::max(z_max[f], most[static_cast<std::size_t>(f)]);
    }
    if (wrong >= 0) {
      first = first < 0 || wrong < first ? wrong : first;
    }
  });
  return first;
}

}  // namespace pyneurons
