// Threads of the core without Python, for ThreadSanitizer: calls of `parallel` from several threads
// at once, bodies that share their own work or throw, and ops whose results are compared with
// those of one thread. tests/sanitize.sh builds and runs it; with the argument "race" it
// has one, which must be found.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "parallel.hpp"
#include "pyneurons/dispatch.hpp"
#include "pyneurons/histogram_entries.hpp"
#include "pyneurons/ngram_coverage.hpp"
#include "pyneurons/segment_counts.hpp"

using namespace pyneurons;

namespace {

constexpr std::int64_t n_rows = 3000;
constexpr std::int64_t n_words = 40;
constexpr std::int64_t n_neurons = n_words * 32 - 5;
constexpr std::int64_t bins = 3;

struct Inputs {
  std::vector<std::uint32_t> mask = std::vector<std::uint32_t>(n_rows * n_words);
  std::vector<std::int32_t> order = std::vector<std::int32_t>(n_rows);
  std::vector<std::int64_t> segments{0};

  Inputs() {
    std::mt19937 random(1);
    for (std::uint32_t& word : mask) {
      word = static_cast<std::uint32_t>(random() & random());
    }
    for (std::int32_t& row : order) {
      row = static_cast<std::int32_t>(random() % n_rows);
    }
    // Lengths that do not decrease: the longest is cut by the runs of several threads.
    for (std::int64_t length = 1; segments.back() + length <= n_rows / 2; ++length) {
      segments.push_back(segments.back() + length);
    }
    segments.push_back(n_rows);
  }

  MatrixView<const std::uint32_t> view() const { return {mask.data(), n_rows, n_words, n_words}; }
  std::int64_t n_segments() const { return static_cast<std::int64_t>(segments.size()) - 1; }
};

using Counts = std::vector<std::int64_t>;

MatrixView<std::int64_t> matrix(Counts& counts) {
  return {counts.data(), static_cast<std::int64_t>(counts.size()) / n_neurons, n_neurons,
          n_neurons};
}

/// Everything that the ops write, end to end.
Counts results(const Inputs& in, Isa isa, int threads) {
  const auto zeros = [](std::int64_t rows) {
    return Counts(static_cast<std::size_t>(rows * n_neurons));
  };
  Counts all = zeros(in.n_segments());
  segment_counts(in.view(), in.order.data(), n_rows, in.segments.data(), matrix(all), isa, threads);

  Counts fires = zeros(1);
  for (std::size_t i = 0; i < all.size(); ++i) {
    fires[i % static_cast<std::size_t>(n_neurons)] += all[i];
  }
  Counts histogram = zeros(bins + 1);
  Counts large = zeros(in.n_segments() - bins);
  ngram_coverage(in.view(), in.order.data(), n_rows, in.segments.data(), in.n_segments(),
                 fires.data(), matrix(histogram), matrix(large), isa, threads);
  const MatrixView<std::int64_t> small = matrix(histogram);
  const MatrixView<std::int64_t> rest = matrix(large);
  const HistogramEntries entries =
      histogram_entries({small.data, small.rows, small.cols, small.row_stride},
                        {rest.data, rest.rows, rest.cols, rest.row_stride}, threads);
  for (const Counts* part : std::initializer_list<const Counts*>{
           &histogram, &large, &entries.offsets, &entries.count, &entries.number}) {
    all.insert(all.end(), part->begin(), part->end());
  }
  return all;
}

bool exception_arrives() {
  try {
    parallel(50, 4, [](std::int64_t i) {
      if (i >= 7) {
        throw std::runtime_error("as asked");
      }
    });
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

bool nested_work_is_done() {
  std::atomic<std::int64_t> done{0};
  parallel(10, 3, [&](std::int64_t) { parallel(10, 3, [&](std::int64_t) { ++done; }); });
  return done == 100;
}

/// Pieces that share one counter, against the rule.
void race() {
  std::int64_t shared = 0;
  parallel(100000, 2, [&](std::int64_t) { ++shared; });
  std::printf("%lld\n", static_cast<long long>(shared));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "race") == 0) {
    race();
    return 0;
  }
  const Inputs in;
  std::atomic<int> wrong{0};
  for (const Isa isa : all_isas) {
    if (!compiled(isa) || !cpu_supports(isa)) {
      continue;
    }
    const Counts expected = results(in, isa, 1);
    std::vector<std::thread> callers;
    for (int threads = 2; threads < 5; ++threads) {
      callers.emplace_back([&, threads] {
        for (int i = 0; i < 3; ++i) {
          wrong += results(in, isa, threads) != expected;
          wrong += !exception_arrives();
          wrong += !nested_work_is_done();
        }
      });
    }
    for (std::thread& caller : callers) {
      caller.join();
    }
  }
  std::printf("threaded ops: %d wrong\n", wrong.load());
  return wrong == 0 ? 0 : 1;
}
