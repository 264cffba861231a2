#pragma once

#include <cstdint>

/// What lets one source be compiled for a GPU by nvcc and for the host by any compiler of C++20.
///
/// A job is a function of (team, number of the team): 32 lanes that run in step, a warp. On the
/// host the lanes of a team run one after the other, and teams run on several threads.
#if defined(__CUDACC__)
#  define PYNEURONS_HD __host__ __device__ __forceinline__
#else
#  define PYNEURONS_HD inline
#endif

#if !defined(PYNEURONS_BEFORE_ATOMIC)
/// A place where tests let another thread go first.
#  define PYNEURONS_BEFORE_ATOMIC()
#endif

namespace pyneurons::cuda {

inline constexpr int lanes = 32;

/// The lanes of one team.
struct Team {
  /// Runs body(lane) for every lane, then waits for all: what one wrote to memory, others may read.
  template <typename Body>
  PYNEURONS_HD void each(const Body& body) const {
#if defined(__CUDA_ARCH__)
    body(static_cast<int>(threadIdx.x % lanes));
    __syncwarp();
#else
    for (int lane = 0; lane < lanes; ++lane) {
      body(lane);
    }
#endif
  }
};

/// A value of each lane, kept from one `each` to the next: in registers on a GPU.
template <typename T>
struct PerLane {
  PYNEURONS_HD T& operator[]([[maybe_unused]] int lane) {
#if defined(__CUDA_ARCH__)
    return value;
#else
    return values[lane];
#endif
  }

#if defined(__CUDA_ARCH__)
  T value{};
#else
  T values[lanes]{};
#endif
};

/// `*target += value` for all threads; the value before. Unsigned sums wrap, so a number below
/// zero may be added in two's complement.
PYNEURONS_HD std::uint32_t atomic_add(std::uint32_t* target, std::uint32_t value) {
#if defined(__CUDA_ARCH__)
  return atomicAdd(target, value);
#else
  PYNEURONS_BEFORE_ATOMIC();
  return __atomic_fetch_add(target, value, __ATOMIC_RELAXED);
#endif
}

PYNEURONS_HD std::uint64_t atomic_add(std::uint64_t* target, std::uint64_t value) {
#if defined(__CUDA_ARCH__)
  static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));
  return atomicAdd(reinterpret_cast<unsigned long long*>(target), value);
#else
  PYNEURONS_BEFORE_ATOMIC();
  return __atomic_fetch_add(target, value, __ATOMIC_RELAXED);
#endif
}

PYNEURONS_HD void atomic_add(std::int64_t* target, std::int64_t value) {
  atomic_add(reinterpret_cast<std::uint64_t*>(target), static_cast<std::uint64_t>(value));
}

PYNEURONS_HD void atomic_min(std::uint64_t* target, std::uint64_t value) {
#if defined(__CUDA_ARCH__)
  atomicMin(reinterpret_cast<unsigned long long*>(target), value);
#else
  PYNEURONS_BEFORE_ATOMIC();
  std::uint64_t seen = __atomic_load_n(target, __ATOMIC_RELAXED);
  while (value < seen && !__atomic_compare_exchange_n(target, &seen, value, false, __ATOMIC_RELAXED,
                                                      __ATOMIC_RELAXED)) {
  }
#endif
}

/// Writes `value` where `expected` stands; what stood there before.
PYNEURONS_HD std::uint64_t atomic_compare_exchange(std::uint64_t* target, std::uint64_t expected,
                                                   std::uint64_t value) {
#if defined(__CUDA_ARCH__)
  return atomicCAS(reinterpret_cast<unsigned long long*>(target), expected, value);
#else
  PYNEURONS_BEFORE_ATOMIC();
  __atomic_compare_exchange_n(target, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
#endif
}

/// A read that other threads' writes may reach, never kept in a register from an earlier one.
PYNEURONS_HD std::uint64_t atomic_load(const std::uint64_t* source) {
#if defined(__CUDA_ARCH__)
  return *reinterpret_cast<const volatile std::uint64_t*>(source);
#else
  PYNEURONS_BEFORE_ATOMIC();
  return __atomic_load_n(source, __ATOMIC_RELAXED);
#endif
}

/// Position of the lowest bit that is set, of a word that has one.
PYNEURONS_HD int lowest_bit(std::uint32_t word) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(word)) - 1;
#else
  return __builtin_ctz(word);
#endif
}

template <typename T>
PYNEURONS_HD constexpr T least(T a, T b) {
  return a < b ? a : b;
}

/// First i in [low, high) with holds(i), which stays true from there on; `high` where there is
/// none.
template <typename Holds>
PYNEURONS_HD std::int64_t first_that(std::int64_t low, std::int64_t high, const Holds& holds) {
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (holds(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

PYNEURONS_HD constexpr std::int64_t divided_up(std::int64_t number, std::int64_t by) {
  return (number + by - 1) / by;
}

}  // namespace pyneurons::cuda
