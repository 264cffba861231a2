#include "pyneurons/ffn_epilogue.hpp"

#include <mutex>

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pyneurons {

std::int64_t ffn_epilogue(MatrixView<float> z, StripMask mask, float* z_max, Isa isa, int threads) {
  const FfnEpilogueJob job{z, mask, z_max};
  const auto kernel = kernels(isa).ffn_epilogue;
  std::mutex mutex;
  std::int64_t first = -1;
  parallel_words(mask.strips * mask.strip_words, FfnEpilogueJob::max_words, threads,
                 [&](WordRange words) {
                   std::int64_t wrong = -1;
                   record(Op::ffn_epilogue, kernel(job, words, &wrong));
                   if (wrong >= 0) {
                     const std::lock_guard lock(mutex);
                     first = first < 0 || wrong < first ? wrong : first;
                   }
                 });
  return first;
}

}  // namespace pyneurons
