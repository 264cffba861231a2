#include "ngram_coverage.hpp"

#include "cuda_device.cuh"
#include "pyneurons/cuda_ops.hpp"

namespace pyneurons::cuda {

void ngram_coverage(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    const SegmentBounds& segments, const std::int64_t* fires,
                    MatrixView<std::int64_t> histogram, MatrixView<std::int64_t> large,
                    void* stream) {
  CudaDevice device(static_cast<cudaStream_t>(stream));
  ngram_coverage(device, {mask.data, mask.row_stride, order}, segments, fires, histogram.rows - 1,
                 histogram.cols, histogram.data, histogram.row_stride, large.data,
                 large.row_stride);
}

}  // namespace pyneurons::cuda
