#include "ngram_triggers.hpp"

#include "cuda_device.cuh"
#include "pyneurons/cuda_ops.hpp"

namespace pyneurons::cuda {

void ngram_triggers(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    const SegmentBounds& segments, std::int64_t neurons,
                    const std::int64_t* threshold, const std::int64_t* offsets,
                    std::int64_t entries, std::int32_t* segment_of, std::int64_t* fires,
                    void* stream) {
  CudaDevice device(static_cast<cudaStream_t>(stream));
  ngram_triggers(device, {mask.data, mask.row_stride, order}, segments, neurons, threshold, offsets,
                 entries, segment_of, fires);
}

}  // namespace pyneurons::cuda
