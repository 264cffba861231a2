#include "pyneurons/ngram_keys.hpp"

#include <algorithm>

#include "kernel_table.hpp"
#include "parallel.hpp"

namespace pyneurons {
namespace {

template <typename Id, typename Kernel>
void keys_of(const NgramKeysJob<Id>& job, std::int64_t rows, const std::int64_t* starts,
             std::int64_t sequences, Kernel kernel, int threads) {
  constexpr std::int64_t piece_rows = std::int64_t{1} << 16;
  const std::int64_t first = std::min<std::int64_t>(job.n - 1, rows);
  parallel((rows - first + piece_rows - 1) / piece_rows, threads, [&](std::int64_t piece) {
    const std::int64_t begin = first + piece * piece_rows;
    record(Op::ngram_keys, kernel(job, begin, std::min(rows, begin + piece_rows)));
  });
  // The kernel does not look where sequences begin: their first n - 1 rows end no n-gram.
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t end = std::min<std::int64_t>(starts[s + 1], starts[s] + job.n - 1);
    std::fill(job.keys + starts[s], job.keys + std::max(starts[s], end), no_ngram);
  }
}

}  // namespace

void ngram_keys(const std::uint16_t* ids, std::int64_t rows, const std::int64_t* starts,
                std::int64_t sequences, int n, int bits, std::uint32_t boundary,
                std::uint64_t* keys, Isa isa, int threads) {
  const NgramKeysJob<std::uint16_t> job{ids, n, bits, boundary, keys};
  keys_of(job, rows, starts, sequences, kernels(isa).ngram_keys_u16, threads);
}

void ngram_keys(const std::uint32_t* ids, std::int64_t rows, const std::int64_t* starts,
                std::int64_t sequences, int n, int bits, std::uint32_t boundary,
                std::uint64_t* keys, Isa isa, int threads) {
  const NgramKeysJob<std::uint32_t> job{ids, n, bits, boundary, keys};
  keys_of(job, rows, starts, sequences, kernels(isa).ngram_keys_u32, threads);
}

}  // namespace pyneurons
