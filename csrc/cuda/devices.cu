#include "cuda_device.cuh"
#include "pyneurons/cuda_ops.hpp"

namespace pyneurons::cuda {

int devices(const char** reason) {
  int number = 0;
  const cudaError_t status = cudaGetDeviceCount(&number);
  *reason = status == cudaSuccess ? "" : cudaGetErrorString(status);
  return status == cudaSuccess ? number : 0;
}

}  // namespace pyneurons::cuda
