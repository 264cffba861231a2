#pragma once

#include <cstdint>
#include <functional>

#include "kernels.hpp"

namespace pyneurons {

/// Runs body(0) ... body(pieces - 1), each once, on up to `threads` threads, and waits for all.
///
/// Which thread runs which piece is open: pieces must be independent. The body must not throw.
void parallel(std::int64_t pieces, int threads, const std::function<void(std::int64_t)>& body);

/// Cuts `words` into pieces of whole vectors, none larger than `max_words`, and runs them.
void parallel_words(std::int64_t words, std::int64_t max_words, int threads,
                    const std::function<void(WordRange)>& body);

}  // namespace pyneurons
