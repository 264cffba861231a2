#include "counting_table.hpp"

#include "cuda_device.cuh"

namespace pyneurons::cuda {

template class CountingTable<CudaDevice>;

}  // namespace pyneurons::cuda
