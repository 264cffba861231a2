#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "host_device.hpp"

namespace pyneurons::cuda {

/// Throws with the runtime's words unless a call succeeded.
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
  }
}

inline constexpr int block_teams = 4;

/// One team per warp.
template <typename Job>
__global__ void __launch_bounds__(block_teams* lanes) run_teams(const __grid_constant__ Job job) {
  __shared__ typename Job::Shared shared[block_teams];
  const int team = static_cast<int>(threadIdx.x) / lanes;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * block_teams + team;
  if (index < job.teams()) {
    job(Team{}, index, shared[team]);
  }
}

/// Sorts pairs by the lowest `bits` of their keys, in scratch from the stream's pool.
void sort_pairs(cudaStream_t stream, std::uint64_t* keys, std::uint64_t* values,
                std::int64_t number, int bits);

/// Memory, jobs and sorting on one stream of the current device.
class CudaDevice {
 public:
  /// Memory that is given back in the order of the stream.
  template <typename T>
  class Buffer {
   public:
    Buffer() = default;
    Buffer(cudaStream_t stream, std::int64_t number) : stream_(stream) {
      if (number > 0) {
        check(cudaMallocAsync(&data_, static_cast<std::size_t>(number) * sizeof(T), stream),
              "memory for counting");
      }
    }
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), stream_(other.stream_) {}
    Buffer& operator=(Buffer&& other) noexcept {
      std::swap(data_, other.data_);
      std::swap(stream_, other.stream_);
      return *this;
    }
    ~Buffer() {
      if (data_ != nullptr) {
        // A failure here is one of earlier work, which the next checked call reports.
        static_cast<void>(cudaFreeAsync(data_, stream_));
      }
    }

    T* data() const { return static_cast<T*>(data_); }

   private:
    void* data_ = nullptr;
    cudaStream_t stream_ = nullptr;
  };

  explicit CudaDevice(cudaStream_t stream) : stream_(stream) {
    int device = 0;
    int processors = 0;
    check(cudaGetDevice(&device), "current device");
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
          "number of multiprocessors");
    teams_wanted_ = std::int64_t{processors} * teams_per_processor;
  }

  std::int64_t teams_wanted() const { return teams_wanted_; }

  template <typename T>
  Buffer<T> zeros(std::int64_t number) {
    Buffer<T> buffer(stream_, number);
    fill(buffer.data(), 0, number);
    return buffer;
  }

  template <typename T>
  void copy(T* to, const T* from, std::int64_t number) {
    if (number > 0) {
      check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(number) * sizeof(T),
                            cudaMemcpyDeviceToDevice, stream_),
            "copy");
    }
  }

  template <typename T>
  void fill_ones(T* to, std::int64_t number) {
    fill(to, 0xFF, number);
  }

  /// One element, when all work before it is done.
  template <typename T>
  T read(const T* from) {
    T value{};
    check(cudaMemcpyAsync(&value, from, sizeof(T), cudaMemcpyDeviceToHost, stream_), "read");
    check(cudaStreamSynchronize(stream_), "work before a read");
    return value;
  }

  template <typename Job>
  void run(const Job& job) {
    const std::int64_t blocks = divided_up(job.teams(), block_teams);
    if (blocks == 0) {
      return;
    }
    if (blocks > most_blocks) {
      throw std::runtime_error("CUDA: " + std::to_string(blocks) +
                               " blocks, more than a launch has");
    }
    run_teams<<<static_cast<unsigned>(blocks), block_teams * lanes, 0, stream_>>>(job);
    check(cudaGetLastError(), "launch");
  }

  void sort_pairs(std::uint64_t* keys, std::uint64_t* values, std::int64_t number, int bits) {
    pyneurons::cuda::sort_pairs(stream_, keys, values, number, bits);
  }

 private:
  /// Four times what is resident at 64 registers a thread, so that the last wave is short.
  static constexpr std::int64_t teams_per_processor = 4 * 32;
  static constexpr std::int64_t most_blocks = 0x7FFFFFFF;

  template <typename T>
  void fill(T* to, int byte, std::int64_t number) {
    if (number > 0) {
      check(cudaMemsetAsync(to, byte, static_cast<std::size_t>(number) * sizeof(T), stream_),
            "fill");
    }
  }

  cudaStream_t stream_;
  std::int64_t teams_wanted_ = 0;
};

}  // namespace pyneurons::cuda
