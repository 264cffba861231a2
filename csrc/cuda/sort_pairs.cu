#include <cub/device/device_radix_sort.cuh>

#include "cuda_device.cuh"

namespace pyneurons::cuda {

void sort_pairs(cudaStream_t stream, std::uint64_t* keys, std::uint64_t* values,
                std::int64_t number, int bits) {
  if (number == 0) {
    return;
  }
  const CudaDevice::Buffer<std::uint64_t> other_keys(stream, number);
  const CudaDevice::Buffer<std::uint64_t> other_values(stream, number);
  cub::DoubleBuffer<std::uint64_t> both_keys(keys, other_keys.data());
  cub::DoubleBuffer<std::uint64_t> both_values(values, other_values.data());
  std::size_t bytes = 0;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, both_keys, both_values, number, 0, bits,
                                        stream),
        "scratch of a sort");
  const CudaDevice::Buffer<unsigned char> scratch(stream, static_cast<std::int64_t>(bytes));
  check(cub::DeviceRadixSort::SortPairs(scratch.data(), bytes, both_keys, both_values, number, 0,
                                        bits, stream),
        "sort");
  CudaDevice device(stream);
  if (both_keys.Current() != keys) {
    device.copy(keys, both_keys.Current(), number);
  }
  if (both_values.Current() != values) {
    device.copy(values, both_values.Current(), number);
  }
}

}  // namespace pyneurons::cuda
