#include "pyneurons/layer_norm.hpp"

#include <algorithm>
#include <vector>

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pyneurons {

void layer_norm(MatrixView<const float> x, const float* weight, const float* bias, float epsilon,
                MatrixView<std::uint16_t> out, Isa isa, int threads) {
  // To multiply by 1 and to add 0 changes nothing that bfloat16 could tell.
  const auto columns = static_cast<std::size_t>(x.cols);
  const std::vector<float> ones(weight == nullptr ? columns : 0, 1.0F);
  const std::vector<float> zeros(bias == nullptr ? columns : 0, 0.0F);
  const LayerNormJob job{x, weight == nullptr ? ones.data() : weight,
                         bias == nullptr ? zeros.data() : bias, epsilon, out};
  const auto kernel = kernels(isa).layer_norm;
  parallel((x.rows + LayerNormJob::block - 1) / LayerNormJob::block, threads,
           [&](std::int64_t block) {
             const std::int64_t begin = block * LayerNormJob::block;
             const std::int64_t end = std::min(x.rows, begin + LayerNormJob::block);
             record(Op::layer_norm, kernel(job, begin, end));
           });
}

}  // namespace pyneurons
