#include <algorithm>
#include <vector>

#include "kernel_table.hpp"
#include "parallel.hpp"
#include "pyneurons/linear.hpp"
#include "scratch.hpp"

namespace pyneurons {
namespace {

/// Bytes for a block of rows: x in three parts of bfloat16, and sums that wait for the next terms.
std::size_t scratch_size(const LinearSplitJob& job) {
  const Panels& shape = job.weight.part[0];
  const std::int64_t chunks = std::min(shape.chunks, LinearSplitJob::packed_chunks);
  const std::int64_t panels = chunks < shape.chunks ? shape.panels : 1;
  return static_cast<std::size_t>(LinearSplitJob::block *
                                  (6 * chunks * Panels::chunk + 4 * panels * Panels::width));
}

}  // namespace

void linear_split(MatrixView<const float> x, const SplitPanels& weight, const float* bias,
                  MatrixView<float> out, Isa isa, int threads) {
  const Panels& shape = weight.part[0];
  std::vector<float> padded(static_cast<std::size_t>(shape.panels * Panels::width));
  if (bias != nullptr) {
    std::copy_n(bias, shape.columns, padded.begin());
  }
  const LinearSplitJob job{x, weight, padded.data(), out};
  const auto kernel = kernels(isa).linear_split;
  parallel((x.rows + LinearSplitJob::block - 1) / LinearSplitJob::block, threads,
           [&](std::int64_t block) {
             thread_local Scratch scratch;
             const std::int64_t begin = block * LinearSplitJob::block;
             const std::int64_t end = std::min(x.rows, begin + LinearSplitJob::block);
             record(Op::linear_split, kernel(job, scratch.take(scratch_size(job)), begin, end));
           });
}

}  // namespace pyneurons
