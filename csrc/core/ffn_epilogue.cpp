#include "pyneurons/ffn_epilogue.hpp"

#include <mutex>

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pyneurons {
namespace {

template <typename T, typename Kernel>
std::int64_t run(const FfnEpilogueJob<T>& job, Kernel kernel, int threads) {
  std::mutex mutex;
  std::int64_t first = -1;
  parallel_words(job.mask.strips * job.mask.strip_words, FfnEpilogueJob<T>::max_words, threads,
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

}  // namespace

std::int64_t ffn_epilogue(MatrixView<float> z, StripMask mask, float* z_max, Isa isa, int threads) {
  return run(FfnEpilogueJob<float>{z, mask, z_max}, kernels(isa).ffn_epilogue_f32, threads);
}

std::int64_t ffn_epilogue(MatrixView<std::uint16_t> z, StripMask mask, float* z_max, Isa isa,
                          int threads) {
  return run(FfnEpilogueJob<std::uint16_t>{z, mask, z_max}, kernels(isa).ffn_epilogue_bf16,
             threads);
}

}  // namespace pyneurons
