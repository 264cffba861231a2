#pragma once

#include <cstdint>
#include <functional>

#include "kernels.hpp"

namespace pyneurons {

/// Runs body(0) ... body(pieces - 1), each once, on up to `threads` threads, and waits for all.
///
/// Which thread runs which piece is open: pieces must be independent. Where one throws, those that
/// have not begun are left out, and the first exception is thrown again.
///
/// Helping threads are kept from call to call, asleep: a job that is done before one of them wakes,
/// 50 microseconds, costs a tenth of one, where threads made for it cost as much as they sleep
/// (Sapphire Rapids class, virtual machine of 2 cores). Any number of threads may call at once, a
/// body too, and a child of `fork` as well.
void parallel(std::int64_t pieces, int threads, const std::function<void(std::int64_t)>& body);

/// Cuts `words` into pieces of whole vectors, none larger than `max_words`, and runs them.
void parallel_words(std::int64_t words, std::int64_t max_words, int threads,
                    const std::function<void(WordRange)>& body);

/// How a job on a mask is shared: ranges of words, and runs of rows inside each.
///
/// Threads take whole rows, of up to `max_words` words, as long as there are rows: where an order
/// scatters the rows, two threads that each take half of every row wait for memory as often as one
/// that takes all of it (Zen 4, rows of 128 bytes: 7 GB/s together, one alone 12).
struct Division {
  Division(std::int64_t words, std::int64_t max_words, std::int64_t rows, int threads);

  /// First row of a run; that of run `runs` is the end.
  std::int64_t bound(std::int64_t run) const;

  std::int64_t pieces() const;

  std::int64_t words;
  std::int64_t range_words;
  std::int64_t rows;
  std::int64_t runs;
};

/// One run of rows, in one range of words. Pieces are numbered range by range.
struct Piece {
  std::int64_t index;
  std::int64_t run;
  WordRange words;
};

/// Runs the body for every piece, as `parallel` does.
void parallel_runs(const Division& division, int threads,
                   const std::function<void(const Piece&)>& body);

}  // namespace pyneurons
