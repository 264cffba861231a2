#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace pyneurons {

void parallel(std::int64_t pieces, int threads, const std::function<void(std::int64_t)>& body) {
  std::atomic<std::int64_t> next{0};
  std::exception_ptr thrown;
  std::mutex mutex;
  const auto work = [&] {
    for (std::int64_t piece = next.fetch_add(1); piece < pieces; piece = next.fetch_add(1)) {
      try {
        body(piece);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!thrown) {
          thrown = std::current_exception();
        }
        next = pieces;
      }
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
  if (thrown) {
    std::rethrow_exception(thrown);
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

Division::Division(std::int64_t words_, std::int64_t max_words, std::int64_t rows_, int threads)
    : words(words_), rows(rows_) {
  constexpr std::int64_t line_words = 16;
  const std::int64_t ranges = std::max<std::int64_t>((words + max_words - 1) / max_words, 1);
  const std::int64_t share = (words + ranges - 1) / ranges;
  const std::int64_t lines = std::max<std::int64_t>((share + line_words - 1) / line_words, 1);
  range_words = std::min(max_words, lines * line_words);
  runs =
      std::clamp<std::int64_t>((threads + ranges - 1) / ranges, 1, std::max<std::int64_t>(rows, 1));
}

std::int64_t Division::bound(std::int64_t run) const {
  return rows / runs * run + std::min(run, rows % runs);
}

std::int64_t Division::pieces() const {
  return (words + range_words - 1) / range_words * runs;
}

void parallel_runs(const Division& division, int threads,
                   const std::function<void(const Piece&)>& body) {
  if (division.words == 0) {
    return;
  }
  parallel(division.pieces(), threads, [&](std::int64_t index) {
    const std::int64_t begin = index / division.runs * division.range_words;
    body({index,
          index % division.runs,
          {begin, std::min(division.words, begin + division.range_words)}});
  });
}

}  // namespace pyneurons
