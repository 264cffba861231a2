// The sources of the CUDA kernels, compiled for the host: teams on threads, lanes in turn.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

namespace {

/// Lets another thread run before one in so many atomic operations; 0: never.
std::atomic<unsigned> yield_every{0};

void before_atomic() {
  const unsigned every = yield_every.load(std::memory_order_relaxed);
  if (every == 0) {
    return;
  }
  thread_local std::minstd_rand random{
      static_cast<unsigned>(std::hash<std::thread::id>{}(std::this_thread::get_id()))};
  if (random() % every == 0) {
    std::this_thread::yield();
  }
}

}  // namespace

#define PYNEURONS_BEFORE_ATOMIC() before_atomic()
#include "counting_table.hpp"
#include "ngram_triggers.hpp"

namespace {

using namespace pyneurons;
using namespace pyneurons::cuda;

constexpr unsigned char poison = 0xA5;

/// Buffers behind which something was written.
std::atomic<std::int64_t> broken_guards{0};

/// What CudaDevice is, on the host. Memory is poisoned and has guards behind it.
class HostDevice {
 public:
  template <typename T>
  class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(std::int64_t number)
        : number_(checked(number)), bytes_(number_ * sizeof(T) + guard, poison) {}
    Buffer(Buffer&&) noexcept = default;
    Buffer& operator=(Buffer&&) noexcept = default;
    ~Buffer() {
      for (std::size_t i = number_ * sizeof(T); i < bytes_.size(); ++i) {
        if (bytes_[i] != poison) {
          ++broken_guards;
          return;
        }
      }
    }

    T* data() const { return reinterpret_cast<T*>(const_cast<unsigned char*>(bytes_.data())); }

   private:
    static std::size_t checked(std::int64_t number) {
      if (number < 0 || number > std::int64_t{1} << 40) {
        throw std::bad_alloc();
      }
      return static_cast<std::size_t>(number);
    }

    static constexpr std::size_t guard = 64;
    std::size_t number_ = 0;
    std::vector<unsigned char> bytes_;
  };

  HostDevice(int threads, std::int64_t teams) : threads_(threads), teams_(teams) {}

  std::int64_t teams_wanted() const { return teams_; }

  template <typename T>
  Buffer<T> zeros(std::int64_t number) {
    Buffer<T> buffer(number);
    if (number > 0) {
      std::memset(static_cast<void*>(buffer.data()), 0,
                  static_cast<std::size_t>(number) * sizeof(T));
    }
    return buffer;
  }

  template <typename T>
  void copy(T* to, const T* from, std::int64_t number) {
    std::copy_n(from, number, to);
  }

  template <typename T>
  void fill_ones(T* to, std::int64_t number) {
    std::fill_n(to, number, ~T{0});
  }

  template <typename T>
  T read(const T* from) {
    return *from;
  }

  template <typename Job>
  void run(const Job& job) {
    std::atomic<std::int64_t> next{0};
    const auto work = [&] {
      typename Job::Shared shared;
      for (std::int64_t i = next++; i < job.teams(); i = next++) {
        std::memset(static_cast<void*>(&shared), poison, sizeof(shared));
        job(Team{}, i, shared);
      }
    };
    std::vector<std::thread> threads;
    for (int i = 1; i < threads_; ++i) {
      threads.emplace_back(work);
    }
    work();
    for (std::thread& thread : threads) {
      thread.join();
    }
  }

  void sort_pairs(std::uint64_t* keys, std::uint64_t* values, std::int64_t number, int bits) {
    const std::uint64_t used = bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
    std::vector<std::int64_t> order(static_cast<std::size_t>(number));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return (keys[a] & used) < (keys[b] & used);
    });
    const std::vector<std::uint64_t> old_keys(keys, keys + number);
    const std::vector<std::uint64_t> old_values(values, values + number);
    for (std::size_t i = 0; i < order.size(); ++i) {
      keys[i] = old_keys[static_cast<std::size_t>(order[i])];
      values[i] = old_values[static_cast<std::size_t>(order[i])];
    }
  }

 private:
  int threads_;
  std::int64_t teams_;
};

struct TestedTable {
  HostDevice device;
  CountingTable<HostDevice> table;

  TestedTable(int threads, std::uint64_t capacity, std::uint64_t most_slots, std::uint64_t probes)
      : device(threads, 1), table(device, capacity, most_slots, probes) {}
};

SegmentBounds segments_of(const std::int64_t* segments, std::int64_t number) {
  return {segments, segments, number};
}

}  // namespace

extern "C" {

std::int64_t guards_broken() {
  return broken_guards;
}

void set_yield_every(unsigned every) {
  yield_every = every;
}

void counts_i64(const std::uint32_t* mask, std::int64_t stride, const std::int32_t* order,
                const std::int64_t* segments, std::int64_t n_segments, std::int64_t neurons,
                std::int64_t* counts, std::int64_t counts_stride, int threads, std::int64_t teams) {
  HostDevice device(threads, teams);
  segment_counts(device, {mask, stride, order}, segments, n_segments, segments[0],
                 segments[n_segments], neurons, counts, counts_stride);
}

void counts_u32(const std::uint32_t* mask, std::int64_t stride, const std::int32_t* order,
                const std::int64_t* segments, std::int64_t n_segments, std::int64_t neurons,
                std::uint32_t* counts, std::int64_t counts_stride, int threads,
                std::int64_t teams) {
  HostDevice device(threads, teams);
  segment_counts(device, {mask, stride, order}, segments, n_segments, segments[0],
                 segments[n_segments], neurons, counts, counts_stride);
}

/// -1, or the neuron whose fires contradict the rest, and `found`.
std::int64_t coverage(const std::uint32_t* mask, std::int64_t stride, const std::int32_t* order,
                      const std::int64_t* segments, std::int64_t n_segments,
                      const std::int64_t* fires, std::int64_t bins, std::int64_t neurons,
                      std::int64_t* histogram, std::int64_t histogram_stride, std::int64_t* large,
                      std::int64_t large_stride, std::int64_t longest, int threads,
                      std::int64_t teams, std::int64_t* found) {
  HostDevice device(threads, teams);
  try {
    ngram_coverage(device, {mask, stride, order}, segments_of(segments, n_segments), fires, bins,
                   neurons, histogram, histogram_stride, large, large_stride, longest);
  } catch (const Contradiction& contradiction) {
    *found = contradiction.found;
    return contradiction.neuron;
  }
  return -1;
}

/// -1, or the neuron whose list does not fill its place, and `found`.
std::int64_t triggers(const std::uint32_t* mask, std::int64_t stride, const std::int32_t* order,
                      const std::int64_t* segments, std::int64_t n_segments, std::int64_t neurons,
                      const std::int64_t* threshold, const std::int64_t* offsets,
                      std::int32_t* segment_of, std::int64_t* fires, std::int64_t longest,
                      int threads, std::int64_t teams, std::int64_t* found) {
  HostDevice device(threads, teams);
  try {
    ngram_triggers(device, {mask, stride, order}, segments_of(segments, n_segments), neurons,
                   threshold, offsets, offsets[neurons], segment_of, fires, longest);
  } catch (const Contradiction& contradiction) {
    *found = contradiction.found;
    return contradiction.neuron;
  }
  return -1;
}

std::uint64_t mixed(std::uint64_t key) {
  return mix(key);
}

void* table_new(int threads, std::uint64_t capacity, std::uint64_t most_slots,
                std::uint64_t probes) {
  try {
    return new TestedTable(threads, capacity, most_slots, probes);
  } catch (const std::invalid_argument&) {
    return nullptr;
  }
}

void table_free(void* table) {
  delete static_cast<TestedTable*>(table);
}

std::uint64_t table_capacity(void* table) {
  return static_cast<TestedTable*>(table)->table.capacity();
}

/// 1 where the table is full, 0 where all is in.
int table_add(void* table, const std::uint64_t* keys, const std::uint64_t* counts,
              std::int64_t number) {
  try {
    static_cast<TestedTable*>(table)->table.add(keys, counts, number);
  } catch (const TableFull&) {
    return 1;
  }
  return 0;
}

/// The same for lists of triggers; 2 where a neuron or an n-gram has no key.
int table_add_lists(void* table, const std::int64_t* offsets, std::int64_t neurons,
                    const std::int32_t* segment_of, const std::int64_t* fires,
                    const std::uint64_t* ngram_of) {
  try {
    static_cast<TestedTable*>(table)->table.add_lists(offsets, neurons, offsets[neurons],
                                                      segment_of, fires, ngram_of);
  } catch (const TableFull&) {
    return 1;
  } catch (const std::invalid_argument&) {
    return 2;
  }
  return 0;
}

/// The number of keys, written to `keys` and `counts`; -1 where the table is full, -2 where counts
/// were lost.
std::int64_t table_sorted(void* table, std::uint64_t* keys, std::uint64_t* counts) {
  try {
    const auto sorted = static_cast<TestedTable*>(table)->table.sorted();
    std::copy_n(sorted.keys.data(), sorted.number, keys);
    std::copy_n(sorted.counts.data(), sorted.number, counts);
    return sorted.number;
  } catch (const TableFull&) {
    return -1;
  } catch (const LostCounts&) {
    return -2;
  }
}

}  // extern "C"
