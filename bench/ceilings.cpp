// The ceilings of a processor that no library tells: AMX from L1, and reading memory.
//
// Built by roofline.py with the system's compiler; not part of the package.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#if defined(__linux__)
#  include <sys/syscall.h>
#  include <unistd.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point began) {
  return std::chrono::duration<double>(Clock::now() - began).count();
}

/// Runs `body(thread)` on each of so many threads, which begin together; returns the sum of what
/// they return.
double sum_over_threads(int threads, const std::function<double(int)>& body) {
  std::vector<double> found(static_cast<std::size_t>(threads));
  std::atomic<int> ready{0};
  const auto work = [&](int thread) {
    ++ready;
    while (ready < threads) {
    }
    found[static_cast<std::size_t>(thread)] = body(thread);
  };
  std::vector<std::thread> pool;
  for (int i = 1; i < threads; ++i) {
    pool.emplace_back(work, i);
  }
  work(0);
  double sum = found[0];
  for (int i = 1; i < threads; ++i) {
    pool[static_cast<std::size_t>(i - 1)].join();
    sum += found[static_cast<std::size_t>(i)];
  }
  return sum;
}

#if defined(__x86_64__) && defined(__linux__)

constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr long tile_data = 18;
constexpr std::ptrdiff_t tile = 512;  // elements of a tile of bfloat16: 16 rows of 64 bytes
constexpr int steps = 8;              // 2 operands x 2 tiles x 8 steps x 1 KiB = 32 KiB, in L1

/// 2 x 2 tiles of C, both operands from L1: the order of products that reaches the most here.
double amx_one_thread(const std::uint16_t* data, double seconds) {
  struct alignas(64) {
    std::uint8_t palette = 1, start = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
  const long row = 64;
  std::int64_t products = 0;
  const auto began = Clock::now();
  do {
    for (int repeat = 0; repeat < 256; ++repeat) {
      const std::uint16_t* a = data;
      const std::uint16_t* b = data + 2 * steps * tile;
      for (int k = 0; k < steps; ++k, a += 2 * tile, b += 2 * tile) {
        __asm__ volatile(
            "tileloadd (%0,%4,1), %%tmm4\n\t"
            "tileloadd (%2,%4,1), %%tmm6\n\t"
            "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
            "tileloadd (%3,%4,1), %%tmm7\n\t"
            "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
            "tileloadd (%1,%4,1), %%tmm5\n\t"
            "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"
            "tdpbf16ps %%tmm7, %%tmm5, %%tmm3\n\t" ::"r"(a),
            "r"(a + tile), "r"(b), "r"(b + tile), "r"(row)
            : "memory");
      }
    }
    products += 256 * steps * 4;
  } while (since(began) < seconds);
  const double elapsed = since(began);
  __asm__ volatile("tilerelease");
  return static_cast<double>(products) * 2 * 16 * 16 * 32 / elapsed;
}

#endif

}  // namespace

extern "C" {

/// Floating-point operations a second of so many threads that multiply tiles from L1, or -1 where
/// the system does not let this process use them. `data` is 16,384 bfloat16 for each thread.
double amx_flops(const std::uint16_t* data, int threads, double seconds) {
#if defined(__x86_64__) && defined(__linux__)
  if (syscall(SYS_arch_prctl, request_permission, tile_data) != 0) {
    return -1;
  }
  return sum_over_threads(threads, [&](int thread) {
    return amx_one_thread(data + thread * 4 * steps * tile, seconds);
  });
#else
  (void)data, (void)threads, (void)seconds;
  return -1;
#endif
}

/// Bytes a second that so many threads read, each its share of `lines` cache lines, over and over
/// but once at least.
double read_bytes(const void* data, std::ptrdiff_t lines, int threads, double seconds,
                  std::uint64_t* sum) {
  typedef std::uint64_t Line __attribute__((vector_size(64)));
  std::atomic<std::uint64_t> all{0};
  const double rate = sum_over_threads(threads, [&](int thread) {
    const std::ptrdiff_t share = lines / threads / 8 * 8;
    const Line* first = static_cast<const Line*>(data) + thread * share;
    // The clock is asked once in 4 MiB: a pass over 16 KiB takes no longer than the question.
    const std::ptrdiff_t repeats =
        std::max<std::ptrdiff_t>(1, 65536 / std::max<std::ptrdiff_t>(share, 1));
    Line sums[8] = {};
    std::ptrdiff_t passes = 0;
    const auto began = Clock::now();
    do {
      for (std::ptrdiff_t repeat = 0; repeat < repeats; ++repeat) {
        for (std::ptrdiff_t i = 0; i < share; i += 8) {
          for (int j = 0; j < 8; ++j) {
            sums[j] ^= first[i + j];
          }
        }
        // The bytes may have changed, as far as the compiler knows: no pass can be left out.
        __asm__ volatile("" ::: "memory");
      }
      passes += repeats;
    } while (since(began) < seconds);
    const double elapsed = since(began);
    for (const Line& line : sums) {
      for (int i = 0; i < 8; ++i) {
        all += line[i];
      }
    }
    return 64.0 * static_cast<double>(share * passes) / elapsed;
  });
  *sum = all;
  return rate;
}
}
