#include <algorithm>
#include <cstring>
#include <vector>

#include "kernel_table.hpp"
#include "parallel.hpp"
#include "pyneurons/linear.hpp"
#include "scratch.hpp"

namespace pyneurons {

namespace {

void run(MatrixView<const std::uint16_t> x, Panels weight, const std::uint16_t* bias,
         MatrixView<std::uint16_t> out, MatrixView<float> residual, Isa isa, int threads) {
  std::vector<float> wide(static_cast<std::size_t>(weight.panels * Panels::width));
  for (std::int64_t i = 0; bias != nullptr && i < weight.columns; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(bias[i]) << 16;
    std::memcpy(&wide[static_cast<std::size_t>(i)], &bits, sizeof bits);
  }
  const LinearJob job{x, weight, wide.data(), out, residual};
  const auto kernel = kernels(isa).linear;
  const Space space = kernels(isa).linear_space(job);
  parallel((x.rows + space.rows - 1) / space.rows, threads, [&](std::int64_t block) {
    thread_local Scratch scratch;
    const std::int64_t begin = block * space.rows;
    const std::int64_t end = std::min(x.rows, begin + space.rows);
    record(Op::linear, kernel(job, scratch.take(space.bytes), begin, end));
  });
}

}  // namespace

void linear(MatrixView<const std::uint16_t> x, Panels weight, const std::uint16_t* bias,
            MatrixView<std::uint16_t> out, Isa isa, int threads) {
  run(x, weight, bias, out, {}, isa, threads);
}

void linear(MatrixView<const std::uint16_t> x, Panels weight, const std::uint16_t* bias,
            MatrixView<float> residual, Isa isa, int threads) {
  run(x, weight, bias, {}, residual, isa, threads);
}

}  // namespace pyneurons
