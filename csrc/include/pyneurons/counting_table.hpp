#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>

/// Counts keyed by (neuron, n-gram) on a CUDA device; csrc/cuda/counting_table.hpp has the table.
namespace pyneurons::cuda {

/// The table may not grow to what is asked of it; nothing more can be added to it or read from it.
struct TableFull : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The counts in the table are not those that were added.
struct LostCounts : std::logic_error {
  using std::logic_error::logic_error;
};

/// The table of the current device, all arrays in its memory, work queued on one stream.
///
/// Every member function waits for the stream. What the arguments mean and what is thrown:
/// `CountingTable`.
class PairCounts {
 public:
  PairCounts(std::uint64_t capacity, std::uint64_t most_slots, std::uint64_t most_probes,
             void* stream);
  ~PairCounts();

  std::uint64_t capacity() const;
  void add(const std::uint64_t* keys, const std::uint64_t* counts, std::int64_t number);
  void add_lists(const std::int64_t* offsets, std::int64_t neurons, std::int64_t entries,
                 const std::int32_t* segment_of, const std::int64_t* fires,
                 const std::uint64_t* ngram_of);

  /// Sorts the keys, and returns how many there are.
  std::int64_t sort();

  /// Copies what `sort` made. Throws std::invalid_argument unless `number` is what it returned.
  void sorted(std::uint64_t* keys, std::uint64_t* counts, std::int64_t number) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pyneurons::cuda
