#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace pyneurons {

void parallel(std::int64_t pieces, int threads, const std::function<void(std::int64_t)>& body) {
  std::atomic<std::int64_t> next{0};
  const auto work = [&] {
    for (std::int64_t piece = next.fetch_add(1); piece < pieces; piece = next.fetch_add(1)) {
      body(piece);
    }
  };
  const std::int64_t helpers = std::min<std::int64_t>(threads, pieces) - 1;
  std::vector<std::thread> pool;
  pool.reserve(static_cast<std::size_t>(std::max<std::int64_t>(helpers, 0)));
  for (std::int64_t i = 0; i < helpers; ++i) {
    try {
      pool.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // the system gives no more threads; those that run do all pieces
    }
  }
  work();
  for (std::thread& helper : pool) {
    helper.join();
  }
}

void parallel_words(std::int64_t words, std::int64_t max_words, int threads,
                    const std::function<void(WordRange)>& body) {
  // Half a cache line is the least that a piece may have of a row: below that, threads
  // would read every line of the mask several times over.
  constexpr std::int64_t granule = 8;
  const std::int64_t share = (words + threads - 1) / threads;
  const std::int64_t size = std::min(max_words, (share + granule - 1) / granule * granule);
  if (size == 0) {
    return;
  }
  parallel((words + size - 1) / size, threads,
           [&](std::int64_t piece) { body({piece * size, std::min(words, (piece + 1) * size)}); });
}

}  // namespace pyneurons
