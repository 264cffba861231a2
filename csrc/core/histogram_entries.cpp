#include "pyneurons/histogram_entries.hpp"

#include <algorithm>
#include <cstddef>

#include "parallel.hpp"

namespace pyneurons {
namespace {

/// Neurons whose columns are turned into rows together: four cache lines of each.
constexpr std::int64_t block_neurons = 32;

class Block {
 public:
  Block(MatrixView<const std::int64_t> histogram, MatrixView<const std::int64_t> large,
        std::int64_t begin, std::int64_t end)
      : size_(histogram.rows), begin_(begin), end_(end) {
    low_.resize(static_cast<std::size_t>((end - begin) * size_));
    high_.resize(static_cast<std::size_t>(end - begin));
    for (std::int64_t c = 1; c < size_; ++c) {
      const std::int64_t* row = histogram.data + c * histogram.row_stride;
      for (std::int64_t f = begin; f < end; ++f) {
        low(f, c) = row[f];
      }
    }
    for (std::int64_t i = 0; i < large.rows; ++i) {
      const std::int64_t* row = large.data + i * large.row_stride;
      for (std::int64_t f = begin; f < end; ++f) {
        if (row[f] >= size_) {
          high_[static_cast<std::size_t>(f - begin)].push_back(row[f]);
        } else if (row[f] > 0) {
          ++low(f, row[f]);
        }
      }
    }
  }

  /// Appends the entries of all neurons, and where those of each end.
  void list(HistogramEntries& found) {
    for (std::int64_t f = begin_; f < end_; ++f) {
      for (std::int64_t c = 1; c < size_; ++c) {
        if (low(f, c) > 0) {
          found.count.push_back(c);
          found.number.push_back(low(f, c));
        }
      }
      std::vector<std::int64_t>& high = high_[static_cast<std::size_t>(f - begin_)];
      std::sort(high.begin(), high.end());
      for (auto run = high.begin(); run != high.end();) {
        const auto next = std::upper_bound(run, high.end(), *run);
        found.count.push_back(*run);
        found.number.push_back(next - run);
        run = next;
      }
      found.offsets.push_back(static_cast<std::int64_t>(found.count.size()));
    }
  }

 private:
  std::int64_t& low(std::int64_t f, std::int64_t c) {
    return low_[static_cast<std::size_t>((f - begin_) * size_ + c)];
  }

  std::int64_t size_;
  std::int64_t begin_;
  std::int64_t end_;
  std::vector<std::int64_t> low_;                // [neurons, bins + 1]
  std::vector<std::vector<std::int64_t>> high_;  // counts above bins
};

}  // namespace

HistogramEntries histogram_entries(MatrixView<const std::int64_t> histogram,
                                   MatrixView<const std::int64_t> large, int threads) {
  const std::int64_t neurons = histogram.cols;
  const std::int64_t blocks = (neurons + block_neurons - 1) / block_neurons;
  std::vector<HistogramEntries> parts(static_cast<std::size_t>(blocks));
  parallel(blocks, threads, [&](std::int64_t block) {
    const std::int64_t begin = block * block_neurons;
    Block(histogram, large, begin, std::min(neurons, begin + block_neurons))
        .list(parts[static_cast<std::size_t>(block)]);
  });
  HistogramEntries all{{0}, {}, {}};
  std::size_t entries = 0;
  for (const HistogramEntries& part : parts) {
    entries += part.count.size();
  }
  all.offsets.reserve(static_cast<std::size_t>(neurons + 1));
  all.count.reserve(entries);
  all.number.reserve(entries);
  for (const HistogramEntries& part : parts) {
    const std::int64_t before = all.offsets.back();
    for (const std::int64_t end : part.offsets) {
      all.offsets.push_back(before + end);
    }
    all.count.insert(all.count.end(), part.count.begin(), part.count.end());
    all.number.insert(all.number.end(), part.number.begin(), part.number.end());
  }
  return all;
}

}  // namespace pyneurons
