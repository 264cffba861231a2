// Calls of `parallel` with bodies that a test can look at.

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "parallel.hpp"

using pyneurons::parallel;

extern "C" {

/// How many pieces were done exactly once.
std::int64_t done_once(std::int64_t pieces, int threads) {
  std::vector<std::atomic<int>> times(static_cast<std::size_t>(pieces));
  parallel(pieces, threads, [&](std::int64_t i) { ++times[static_cast<std::size_t>(i)]; });
  std::int64_t once = 0;
  for (const std::atomic<int>& time : times) {
    once += time == 1 ? 1 : 0;
  }
  return once;
}

/// The same of pieces that are themselves shared.
std::int64_t done_once_inside(std::int64_t pieces, int threads) {
  std::atomic<std::int64_t> once{0};
  parallel(pieces, threads, [&](std::int64_t) { once += done_once(pieces, threads); });
  return once;
}

/// Threads that meet inside of one call; all of them have to come, or it does not end.
std::int64_t threads_that_meet(int threads) {
  std::mutex mutex;
  std::set<std::thread::id> met;
  std::atomic<int> here{0};
  parallel(threads, threads, [&](std::int64_t) {
    {
      const std::lock_guard lock(mutex);
      met.insert(std::this_thread::get_id());
    }
    for (++here; here < threads;) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  });
  return static_cast<std::int64_t>(met.size());
}

/// Which piece's exception arrives, -1 for none; those from `first` on throw.
std::int64_t thrown(std::int64_t pieces, int threads, std::int64_t first) {
  try {
    parallel(pieces, threads, [&](std::int64_t i) {
      if (i >= first) {
        throw std::runtime_error(std::to_string(i));
      }
    });
  } catch (const std::runtime_error& error) {
    return std::stoll(error.what());
  }
  return -1;
}
}
