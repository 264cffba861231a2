#include "pyneurons/trigger_baselines.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <vector>

/// Compiled once: with the vectors of four that every x86-64 has, all of it takes a quarter of the
/// time of the product that makes the scores (Sapphire Rapids class, AMX, 2 threads).
namespace pyneurons {
namespace {

constexpr int side_by_side = 4;
constexpr int lanes = 8;

/// How many scores are larger than each of `size` ones, at most `side_by_side`.
void count_larger(const float* scores, std::int64_t columns, const float* than, std::int64_t size,
                  std::int32_t* larger) {
  float own[side_by_side];
  std::fill(own, own + side_by_side, std::numeric_limits<float>::infinity());
  std::copy(than, than + size, own);
  std::int32_t found[side_by_side][lanes] = {};
  const std::int64_t whole = columns / lanes * lanes;
  for (std::int64_t c = 0; c < whole; c += lanes) {
    for (int i = 0; i < side_by_side; ++i) {
      for (int l = 0; l < lanes; ++l) {
        found[i][l] += scores[c + l] > own[i];
      }
    }
  }
  for (std::int64_t c = whole; c < columns; ++c) {
    for (int i = 0; i < side_by_side; ++i) {
      found[i][c - whole] += scores[c] > own[i];
    }
  }
  for (std::int64_t i = 0; i < size; ++i) {
    larger[i] = 0;
    for (const std::int32_t some : found[i]) {
      larger[i] += some;
    }
  }
}

/// Adds up tokens into one row of totals.
class Sum {
 public:
  Sum(const float* scores, double mean) : scores_(scores), mean_(mean) {}

  void add(std::int32_t token) {
    const double score = scores_[token];
    sum_ += score;
    negative_ += score < 0;
    below_ += score < mean_;
    ++tokens_;
  }

  std::int64_t tokens() const { return tokens_; }

  void write(const ScoreTotals& totals, std::int64_t row) const {
    std::int32_t* counts = totals.counts.data + row * totals.counts.row_stride;
    totals.sum[row] = sum_;
    counts[0] = tokens_;
    counts[1] = negative_;
    counts[2] = below_;
  }

 private:
  const float* scores_;
  double mean_;
  double sum_ = 0;
  std::int32_t tokens_ = 0;
  std::int32_t negative_ = 0;
  std::int32_t below_ = 0;
};

}  // namespace

void trigger_baselines(MatrixView<const float> scores, const double* mean,
                       const TriggerGroups& groups, const Baselines& baselines,
                       std::int64_t most_random, std::int64_t most_matched, std::int32_t* rank,
                       const ScoreTotals& random, const ScoreTotals& matched) {
  // The last group that each token is a trigger of.
  std::vector<std::int64_t> group_of(static_cast<std::size_t>(scores.cols), -1);
  for (std::int64_t g = 0; g < groups.size; ++g) {
    const std::int64_t begin = groups.offsets[g];
    const std::int64_t end = groups.offsets[g + 1];
    const float* own = scores.data + groups.row[g] * scores.row_stride;
    const double own_mean = mean[groups.row[g]];
    for (std::int64_t i = begin; i < end; ++i) {
      group_of[static_cast<std::size_t>(groups.trigger[i])] = g;
    }
    const auto is_trigger = [&](std::int32_t token) {
      return group_of[static_cast<std::size_t>(token)] == g;
    };

    for (std::int64_t i = begin; i < end; i += side_by_side) {
      const std::int64_t some = std::min<std::int64_t>(side_by_side, end - i);
      float than[side_by_side];
      for (std::int64_t k = 0; k < some; ++k) {
        than[k] = own[groups.trigger[i + k]];
      }
      count_larger(own, scores.cols, than, some, rank + i);
    }

    Sum drawn(own, own_mean);
    for (std::int64_t d = 0; d < baselines.n_drawn && drawn.tokens() < most_random; ++d) {
      if (!is_trigger(baselines.drawn[d])) {
        drawn.add(baselines.drawn[d]);
      }
    }
    drawn.write(random, g);

    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t centre = baselines.place[groups.trigger[i]];
      const std::int64_t count = baselines.count[groups.trigger[i]];
      // Places from the trigger down and up, those of triggers left out: the nearer goes first.
      std::int64_t down = centre;
      std::int64_t up = centre;
      const auto next_down = [&] {
        do {
          --down;
        } while (down >= 0 && is_trigger(baselines.by_count[down]));
      };
      const auto next_up = [&] {
        do {
          ++up;
        } while (up < scores.cols && is_trigger(baselines.by_count[up]));
      };
      const auto count_at = [&](std::int64_t place) {
        return baselines.count[baselines.by_count[place]];
      };
      next_down();
      next_up();
      Sum near(own, own_mean);
      while (near.tokens() < most_matched && (down >= 0 || up < scores.cols)) {
        bool rarer = down >= 0;
        if (rarer && up < scores.cols) {
          const std::int64_t less = count - count_at(down);
          const std::int64_t more = count_at(up) - count;
          rarer = less != more ? less < more : centre - down <= up - centre;
        }
        near.add(baselines.by_count[rarer ? down : up]);
        rarer ? next_down() : next_up();
      }
      near.write(matched, i);
    }
  }
}

}  // namespace pyneurons
