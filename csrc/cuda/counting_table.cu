#include "counting_table.hpp"

#include <optional>
#include <string>

#include "cuda_device.cuh"

namespace pyneurons::cuda {

template class CountingTable<CudaDevice>;

struct PairCounts::State {
  State(std::uint64_t capacity, std::uint64_t most_slots, std::uint64_t most_probes, void* stream)
      : device(static_cast<cudaStream_t>(stream)),
        table(device, capacity, most_slots, most_probes) {}

  CudaDevice device;
  CountingTable<CudaDevice> table;
  std::optional<SortedKeys<CudaDevice>> sorted;
};

PairCounts::PairCounts(std::uint64_t capacity, std::uint64_t most_slots, std::uint64_t most_probes,
                       void* stream)
    : state_(std::make_unique<State>(capacity, most_slots, most_probes, stream)) {}

PairCounts::~PairCounts() = default;

std::uint64_t PairCounts::capacity() const {
  return state_->table.capacity();
}

void PairCounts::add(const std::uint64_t* keys, const std::uint64_t* counts, std::int64_t number) {
  state_->table.add(keys, counts, number);
}

void PairCounts::add_lists(const std::int64_t* offsets, std::int64_t neurons, std::int64_t entries,
                           const std::int32_t* segment_of, const std::int64_t* fires,
                           const std::uint64_t* ngram_of) {
  state_->table.add_lists(offsets, neurons, entries, segment_of, fires, ngram_of);
}

std::int64_t PairCounts::sort() {
  state_->sorted.reset();
  state_->sorted.emplace(state_->table.sorted());
  return state_->sorted->number;
}

void PairCounts::sorted(std::uint64_t* keys, std::uint64_t* counts, std::int64_t number) const {
  if (!state_->sorted || state_->sorted->number != number) {
    throw std::invalid_argument("counting table: " + std::to_string(number) +
                                " keys are not what was sorted");
  }
  state_->device.copy(keys, state_->sorted->keys.data(), number);
  state_->device.copy(counts, state_->sorted->counts.data(), number);
}

}  // namespace pyneurons::cuda
