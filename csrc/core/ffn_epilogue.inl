#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// The word of the last neurons, where F is no multiple of 32: through a padded copy.
inline std::uint32_t epilogue_tail(float* z, float* z_max, std::int64_t neurons,
                                   std::uint32_t& wrong) {
  float copy[32] = {};
  float copy_max[32] = {};
  const std::size_t count = static_cast<std::size_t>(neurons);
  std::memcpy(copy, z, count * sizeof(float));
  std::memcpy(copy_max, z_max, count * sizeof(float));
  const std::uint32_t fires = epilogue_word(copy, copy_max, wrong);
  std::memcpy(z, copy, count * sizeof(float));
  std::memcpy(z_max, copy_max, count * sizeof(float));
  return fires;
}

}  // namespace

/// Block by block of words, so that the running maxima of a block stay in the nearest cache.
Isa ffn_epilogue(const FfnEpilogueJob& job, WordRange words, std::int64_t* first_wrong) {
  *first_wrong = -1;
  for (std::int64_t n = 0; n < job.z.rows; ++n) {
    float* z = job.z.data + n * job.z.row_stride;
    for (std::int64_t w = words.begin; w < words.end; ++w) {
      const std::int64_t neurons = job.z.cols - 32 * w;
      std::uint32_t fires = 0;
      std::uint32_t wrong = 0;
      if (neurons >= 32) {
        fires = epilogue_word(z + 32 * w, job.z_max + 32 * w, wrong);
      } else if (neurons > 0) {
        fires = epilogue_tail(z + 32 * w, job.z_max + 32 * w, neurons, wrong);
      }
      const std::int64_t strip = w / job.mask.strip_words;
      job.mask.data[strip * job.mask.strip_stride + n * job.mask.row_stride +
                    (w - strip * job.mask.strip_words)] = fires;
      if (wrong != 0 && *first_wrong < 0) {
        *first_wrong = n * job.z.cols + 32 * w + __builtin_ctz(wrong);
      }
    }
  }
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
