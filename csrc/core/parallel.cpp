#include "parallel.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

namespace pyneurons {
namespace {

/// One call of `parallel`.
struct Job {
  Job(std::int64_t pieces_, const std::function<void(std::int64_t)>& body_, std::int64_t helpers)
      : pieces(pieces_), body(body_), wanted(helpers) {}

  std::int64_t pieces;
  const std::function<void(std::int64_t)>& body;
  std::atomic<std::int64_t> next{0};
  std::exception_ptr thrown;  // the first; guarded by `failing`
  std::mutex failing;

  // Guarded by the pool's mutex.
  std::int64_t wanted;       // helpers that may still come
  std::int64_t working = 0;  // helpers that came and have not left
  std::condition_variable left;

  void work() {
    for (std::int64_t piece = next.fetch_add(1); piece < pieces; piece = next.fetch_add(1)) {
      try {
        body(piece);
      } catch (...) {
        const std::lock_guard lock(failing);
        if (!thrown) {
          thrown = std::current_exception();
        }
        next = pieces;
      }
    }
  }
};

/// Threads that help whoever calls `parallel`, and sleep in between.
///
/// There are as many as were ever wanted at once. The caller works as well, so that a job ends
/// though every helper is busy: calls from several threads, or from inside a body, cannot wait for
/// each other.
class Pool {
 public:
  void run(Job& job) {
    const std::int64_t helpers = job.wanted;
    {
      const std::lock_guard lock(mutex_);
      open_.push_back(&job);
      wanted_ += helpers;
      grow();
    }
    for (std::int64_t i = 0; i < helpers; ++i) {
      opened_.notify_one();
    }
    job.work();
    std::unique_lock lock(mutex_);
    // Nobody has to come any more: all pieces have begun.
    if (job.wanted > 0) {
      close(job);
    }
    job.left.wait(lock, [&] { return job.working == 0; });
  }

 private:
  /// Makes threads until every helper that is wanted has one.
  void grow() {
    try {
      for (; threads_ < busy_ + wanted_; ++threads_) {
        std::thread(&Pool::help, this).detach();
      }
    } catch (const std::exception&) {
      // The system gives no more threads; those that are there do all pieces.
    }
  }

  void close(Job& job) {
    wanted_ -= job.wanted;
    job.wanted = 0;
    open_.erase(std::find(open_.begin(), open_.end(), &job));
  }

  [[noreturn]] void help() {
    std::unique_lock lock(mutex_);
    for (;;) {
      opened_.wait(lock, [&] { return !open_.empty(); });
      Job& job = *open_.front();
      ++job.working;
      ++busy_;
      --wanted_;
      if (--job.wanted == 0) {
        open_.pop_front();
      }
      lock.unlock();
      job.work();
      lock.lock();
      --busy_;
      if (--job.working == 0) {
        job.left.notify_one();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable opened_;
  std::deque<Job*> open_;  // jobs that want helpers
  std::int64_t wanted_ = 0;
  std::int64_t busy_ = 0;
  std::int64_t threads_ = 0;
};

std::atomic<Pool*> the_pool{nullptr};

/// The pool of this process.
///
/// It is never destroyed: its threads sleep in it until the process ends. A child of `fork` has
/// none of them, and perhaps a mutex that nobody will unlock, so it begins with a new one.
Pool& pool() {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr, std::memory_order_relaxed); });
  static_cast<void>(registered);
  Pool* found = the_pool.load(std::memory_order_acquire);
  if (found == nullptr) {
    Pool* const made = new Pool;
    if (the_pool.compare_exchange_strong(found, made, std::memory_order_acq_rel)) {
      return *made;
    }
    delete made;  // another thread was faster
  }
  return *found;
}

}  // namespace

void parallel(std::int64_t pieces, int threads, const std::function<void(std::int64_t)>& body) {
  const std::int64_t helpers = std::min<std::int64_t>(threads, pieces) - 1;
  if (helpers <= 0) {
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
      body(piece);
    }
    return;
  }
  Job job(pieces, body, helpers);
  pool().run(job);
  if (job.thrown) {
    std::rethrow_exception(job.thrown);
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
