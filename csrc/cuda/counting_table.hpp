#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "host_device.hpp"
#include "pyneurons/counting_table.hpp"

/// Counts keyed by (neuron, n-gram), for what no dense table holds and no single order of rows
/// gives: lists of triggers that are merged over parts of a corpus.
///
/// No count is ever lost: what does not find a slot is kept aside and added after the table has
/// grown, and a table that may not grow any more stops with an error.
namespace pyneurons::cuda {

inline constexpr std::uint64_t no_key = ~std::uint64_t{0};

/// Neurons below 2^16 - 1 and n-grams below 2^48: three tokens of 16 bits, or a number.
inline constexpr int ngram_bits = 48;
inline constexpr std::int64_t most_neurons = (std::int64_t{1} << (64 - ngram_bits)) - 1;

PYNEURONS_HD constexpr std::uint64_t pair_key(std::uint64_t neuron, std::uint64_t ngram) {
  return neuron << ngram_bits | ngram;
}

/// Finalizer of splitmix64: one to one, so that two keys never meet for good.
PYNEURONS_HD constexpr std::uint64_t mix(std::uint64_t key) {
  key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
  key = (key ^ (key >> 27)) * 0x94D049BB133111EBu;
  return key ^ (key >> 31);
}

/// Slots of an open-addressed table, probed one after the other, nothing ever taken out.
struct TableSlots {
  std::uint64_t* keys;     // [capacity], no_key where free
  std::uint64_t* counts;   // [capacity]
  std::uint64_t capacity;  // a power of two
  std::uint64_t probes;    // slots that are tried for a key, at most capacity

  /// Adds to the count of a key; false, and nothing changed, where none of its slots is free.
  ///
  /// A key that is in the table is found: a slot once taken stays taken, so the slots before its
  /// own have been full since it came in.
  PYNEURONS_HD bool add(std::uint64_t key, std::uint64_t count) const {
    const std::uint64_t home = mix(key);
    for (std::uint64_t probe = 0; probe < probes; ++probe) {
      const std::uint64_t slot = (home + probe) & (capacity - 1);
      std::uint64_t seen = atomic_load(keys + slot);
      if (seen == no_key) {
        seen = atomic_compare_exchange(keys + slot, no_key, key);
      }
      if (seen == no_key || seen == key) {
        atomic_add(counts + slot, count);
        return true;
      }
    }
    return false;
  }
};

/// Keys and counts that did not find a slot.
struct Refused {
  std::uint64_t* keys;
  std::uint64_t* counts;
  std::uint64_t* number;

  PYNEURONS_HD void put(std::uint64_t key, std::uint64_t count) const {
    const std::uint64_t k = atomic_add(number, 1);
    keys[k] = key;
    counts[k] = count;
  }
};

/// Adds a batch of keys; no_key is left out. `refused` has room for all of them.
struct AddKeysJob {
  struct Shared {};

  const std::uint64_t* keys;
  const std::uint64_t* counts;
  std::int64_t number;
  TableSlots slots;
  Refused refused;

  PYNEURONS_HD std::int64_t teams() const { return divided_up(number, lanes); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    team.each([&](int lane) {
      const std::int64_t i = index * lanes + lane;
      if (i < number && keys[i] != no_key && !slots.add(keys[i], counts[i])) {
        refused.put(keys[i], counts[i]);
      }
    });
  }
};

/// sums[0] += the counts of all keys, sums[1] += the number of keys.
struct SumKeysJob {
  struct Shared {
    std::uint64_t count[lanes];
    std::uint64_t keys[lanes];
  };
  static constexpr std::int64_t team_keys = 32 * lanes;

  const std::uint64_t* keys;
  const std::uint64_t* counts;
  std::int64_t number;
  std::uint64_t* sums;

  PYNEURONS_HD std::int64_t teams() const { return divided_up(number, team_keys); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared& shared) const {
    const std::int64_t end = least((index + 1) * team_keys, number);
    team.each([&](int lane) {
      std::uint64_t count = 0;
      std::uint64_t found = 0;
      for (std::int64_t i = index * team_keys + lane; i < end; i += lanes) {
        if (keys[i] != no_key) {
          count += counts[i];
          ++found;
        }
      }
      shared.count[lane] = count;
      shared.keys[lane] = found;
    });
    team.each([&](int lane) {
      if (lane == 0) {
        for (int i = 1; i < lanes; ++i) {
          shared.count[0] += shared.count[i];
          shared.keys[0] += shared.keys[i];
        }
        atomic_add(sums, shared.count[0]);
        atomic_add(sums + 1, shared.keys[0]);
      }
    });
  }
};

/// Keys (neuron, n-gram) of lists as ngram_triggers gives them, and how many n-grams have no key.
struct PairKeysJob {
  struct Shared {};

  const std::int64_t* offsets;  // [neurons + 1]
  std::int64_t neurons;
  const std::int32_t* segment_of;
  const std::uint64_t* ngram_of;  // by segment
  std::int64_t number;
  std::uint64_t* keys;
  std::uint64_t* too_large;

  PYNEURONS_HD std::int64_t teams() const { return divided_up(number, lanes); }

  PYNEURONS_HD void operator()(const Team& team, std::int64_t index, Shared&) const {
    team.each([&](int lane) {
      const std::int64_t k = index * lanes + lane;
      if (k < number) {
        const std::int64_t neuron =
            first_that(0, neurons, [&](std::int64_t f) { return offsets[f + 1] > k; });
        const std::uint64_t ngram = ngram_of[segment_of[k]];
        if (ngram >> ngram_bits != 0) {
          atomic_add(too_large, 1);
        }
        keys[k] = pair_key(static_cast<std::uint64_t>(neuron), ngram);
      }
    });
  }
};

/// Keys in ascending order with their counts, on the device.
template <typename Device>
struct SortedKeys {
  typename Device::template Buffer<std::uint64_t> keys;
  typename Device::template Buffer<std::uint64_t> counts;
  std::int64_t number;
};

/// A table of TableSlots that grows.
template <typename Device>
class CountingTable {
 public:
  using Words = typename Device::template Buffer<std::uint64_t>;

  /// capacity      slots to begin with, a power of two
  /// most_slots    it never grows beyond
  /// most_probes   slots tried for one key; a table where this is not enough grows
  CountingTable(Device& device, std::uint64_t capacity, std::uint64_t most_slots,
                std::uint64_t most_probes = 128)
      : device_(device), most_slots_(most_slots), most_probes_(most_probes) {
    if (capacity == 0 || (capacity & (capacity - 1)) != 0 || capacity > most_slots ||
        most_probes == 0) {
      throw std::invalid_argument("counting table: capacity must be a power of two, at most " +
                                  std::to_string(most_slots) + ", and probes at least 1");
    }
    table_ = empty(capacity);
  }

  std::uint64_t capacity() const { return table_.capacity; }

  /// Adds counts[i] to the count of keys[i], both on the device; no_key is left out.
  ///
  /// Throws TableFull, after which the table cannot be used, where it would outgrow most_slots.
  void add(const std::uint64_t* keys, const std::uint64_t* counts, std::int64_t number) {
    usable();
    broken_ = true;  // until all of them are in
    added_ += sums(keys, counts, number).counts;
    Left left = insert(keys, counts, number, table_);
    while (left.number > 0) {
      grow(left.number);
      left = insert(left.keys.data(), left.counts.data(), left.number, table_);
    }
    broken_ = false;
  }

  /// Adds lists as ngram_triggers gives them, in which segment s is the n-gram ngram_of[s].
  ///
  /// Throws std::invalid_argument, nothing added, where a neuron or an n-gram has no key.
  void add_lists(const std::int64_t* offsets, std::int64_t neurons, std::int64_t entries,
                 const std::int32_t* segment_of, const std::int64_t* fires,
                 const std::uint64_t* ngram_of) {
    const Words keys = device_.template zeros<std::uint64_t>(entries);
    const Words too_large = device_.template zeros<std::uint64_t>(1);
    device_.run(PairKeysJob{offsets, neurons, segment_of, ngram_of, entries, keys.data(),
                            too_large.data()});
    if (neurons > most_neurons || device_.read(too_large.data()) != 0) {
      throw std::invalid_argument("counting table: keys have room for " +
                                  std::to_string(most_neurons) + " neurons and n-grams of " +
                                  std::to_string(ngram_bits) + " bits");
    }
    add(keys.data(), reinterpret_cast<const std::uint64_t*>(fires), entries);
  }

  /// All keys in ascending order. Throws LostCounts unless their counts sum to what was added.
  SortedKeys<Device> sorted() {
    usable();
    certify(table_);
    const std::int64_t number = static_cast<std::int64_t>(
        sums(table_.keys.data(), table_.counts.data(), slots_of(table_)).keys);
    // Free slots have the largest key of all, so they come last.
    Words keys = device_.template zeros<std::uint64_t>(slots_of(table_));
    Words counts = device_.template zeros<std::uint64_t>(slots_of(table_));
    device_.copy(keys.data(), table_.keys.data(), slots_of(table_));
    device_.copy(counts.data(), table_.counts.data(), slots_of(table_));
    device_.sort_pairs(keys.data(), counts.data(), slots_of(table_), 64);
    return {std::move(keys), std::move(counts), number};
  }

 private:
  struct Table {
    Words keys;
    Words counts;
    std::uint64_t capacity = 0;
  };
  struct Left {
    Words keys;
    Words counts;
    std::int64_t number;
  };
  struct Sums {
    std::uint64_t counts;
    std::uint64_t keys;
  };

  static std::int64_t slots_of(const Table& table) {
    return static_cast<std::int64_t>(table.capacity);
  }

  void usable() const {
    if (broken_) {
      throw TableFull("counting table: it ran full before, its counts are not complete");
    }
  }

  Table empty(std::uint64_t capacity) {
    const std::int64_t slots = static_cast<std::int64_t>(capacity);
    Table table{device_.template zeros<std::uint64_t>(slots),
                device_.template zeros<std::uint64_t>(slots), capacity};
    device_.fill_ones(table.keys.data(), slots);
    return table;
  }

  Sums sums(const std::uint64_t* keys, const std::uint64_t* counts, std::int64_t number) {
    const Words found = device_.template zeros<std::uint64_t>(2);
    device_.run(SumKeysJob{keys, counts, number, found.data()});
    return {device_.read(found.data()), device_.read(found.data() + 1)};
  }

  /// What of a batch did not go into a table.
  Left insert(const std::uint64_t* keys, const std::uint64_t* counts, std::int64_t number,
              const Table& table) {
    Left left{device_.template zeros<std::uint64_t>(number),
              device_.template zeros<std::uint64_t>(number), 0};
    const Words refused = device_.template zeros<std::uint64_t>(1);
    const TableSlots slots{table.keys.data(), table.counts.data(), table.capacity,
                           least(most_probes_, table.capacity)};
    device_.run(AddKeysJob{
        keys, counts, number, slots, {left.keys.data(), left.counts.data(), refused.data()}});
    left.number = static_cast<std::int64_t>(device_.read(refused.data()));
    return left;
  }

  /// Moves to a larger table in which every key there is finds a slot.
  void grow(std::int64_t waiting) {
    for (std::uint64_t capacity = table_.capacity;;) {
      if (capacity > most_slots_ / 2) {
        throw TableFull("counting table: " + std::to_string(waiting) +
                        " of the pairs find no slot " + "in " + std::to_string(table_.capacity) +
                        ", and " + std::to_string(most_slots_) + " is the most it may have");
      }
      capacity *= 2;
      Table larger = empty(capacity);
      if (insert(table_.keys.data(), table_.counts.data(), slots_of(table_), larger).number == 0) {
        table_ = std::move(larger);
        return;
      }
    }
  }

  void certify(const Table& table) {
    const std::uint64_t there =
        sums(table.keys.data(), table.counts.data(), slots_of(table)).counts;
    if (there != added_) {
      throw LostCounts("counting table: counts sum to " + std::to_string(there) + ", added were " +
                       std::to_string(added_));
    }
  }

  Device& device_;
  std::uint64_t most_slots_;
  std::uint64_t most_probes_;
  Table table_;
  std::uint64_t added_ = 0;
  bool broken_ = false;
};

}  // namespace pyneurons::cuda
