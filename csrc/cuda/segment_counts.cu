#include "segment_counts.hpp"

#include "cuda_device.cuh"
#include "pyneurons/cuda_ops.hpp"

namespace pyneurons::cuda {
namespace {

template <typename Count>
void count(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
           const SegmentBounds& segments, MatrixView<Count> counts, void* stream) {
  CudaDevice device(static_cast<cudaStream_t>(stream));
  segment_counts(device, {mask.data, mask.row_stride, order}, segments.device, segments.number,
                 segments.host[0], segments.host[segments.number], counts.cols, counts.data,
                 counts.row_stride);
}

}  // namespace

void segment_counts(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    const SegmentBounds& segments, MatrixView<std::int64_t> counts, void* stream) {
  count(mask, order, segments, counts, stream);
}

void segment_counts(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    const SegmentBounds& segments, MatrixView<std::uint32_t> counts, void* stream) {
  count(mask, order, segments, counts, stream);
}

}  // namespace pyneurons::cuda
