#include "pyneurons/score_candidates.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

/// Compiled once: with the vectors of four that every x86-64 has, this is a tenth of the product
/// that makes the scores (Sapphire Rapids class).
namespace pyneurons {
namespace {

constexpr std::int64_t chunk = 32;
constexpr float infinity = std::numeric_limits<float>::infinity();

inline float value_of(float score) {
  return score;
}
inline float value_of(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// A number in the order of the score, NaN at an end. Whole numbers because the compiler takes
/// their maxima eight at a time in any instruction set, and those of f32 one by one.
inline std::int16_t key_of(std::uint16_t score) {
  const auto bits = static_cast<std::int16_t>(score);
  return static_cast<std::int16_t>(bits ^ ((bits >> 15) & 0x7FFF));
}
inline std::int32_t key_of(float score) {
  const auto bits = std::bit_cast<std::int32_t>(score);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}
inline float of_key(std::int16_t key) {
  return value_of(static_cast<std::uint16_t>(key ^ ((key >> 15) & 0x7FFF)));
}
inline float of_key(std::int32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) & 0x7FFFFFFF));
}

struct Range {
  float least;
  float most;
};

/// The smallest and the largest of a chunk of scores; one or both may be NaN where a score is.
template <typename Score>
inline Range range_of(const Score* scores) {
  using Key = decltype(key_of(*scores));
  Key least = std::numeric_limits<Key>::max();
  Key most = std::numeric_limits<Key>::min();
  for (std::int64_t c = 0; c < chunk; ++c) {
    const Key key = key_of(scores[c]);
    least = key < least ? key : least;
    most = key > most ? key : most;
  }
  return {of_key(least), of_key(most)};
}

/// One end of the scores of one neuron.
class Row {
 public:
  Row(const ScoreCandidates& candidates, std::int64_t neuron)
      : low_(candidates.low.data + neuron * candidates.low.row_stride),
        top_(candidates.low.cols),
        column_(candidates.column.data + neuron * candidates.column.row_stride),
        upper_(candidates.upper.data + neuron * candidates.upper.row_stride),
        room_(static_cast<std::int32_t>(candidates.column.cols)),
        number_(candidates.number[neuron]) {
    find_threshold();
  }

  /// Whether a score of at most `best`, or any where it is NaN, may be listed.
  bool wants(float best, float unit, float margin) const {
    return !(best + unit * std::fabs(best) + margin < threshold_) && number_ >= 0;
  }

  void see(float score, float unit, float margin, std::int32_t column) {
    const float upper = score + unit * std::fabs(score) + margin;
    if (!(upper >= threshold_) || number_ < 0) {
      return;
    }
    if (number_ == room_) {
      forget();
      if (number_ == room_) {
        number_ = -1;
        return;
      }
    }
    column_[number_] = column;
    upper_[number_++] = upper;
    const float lower = score - (unit * std::fabs(score) + margin);
    if (lower > threshold_) {
      low_[weakest_] = lower;
      find_threshold();
    }
  }

  std::int32_t number() const { return number_; }

 private:
  void find_threshold() {
    weakest_ = std::min_element(low_, low_ + top_) - low_;
    threshold_ = low_[weakest_];
  }

  /// Drops the candidates that the threshold has passed.
  void forget() {
    std::int32_t kept = 0;
    for (std::int32_t i = 0; i < number_; ++i) {
      if (upper_[i] >= threshold_) {
        column_[kept] = column_[i];
        upper_[kept++] = upper_[i];
      }
    }
    number_ = kept;
  }

  float* low_;
  std::int64_t top_;
  std::int32_t* column_;
  float* upper_;
  std::int32_t room_;
  std::int32_t number_;
  std::int64_t weakest_ = 0;
  float threshold_ = -infinity;
};

}  // namespace

template <typename Score>
void score_candidates(const NearScores<Score>& near, const ScoreCandidates& largest,
                      const ScoreCandidates& smallest) {
  const std::int64_t columns = near.scores.cols;
  std::vector<float> longest(static_cast<std::size_t>((columns + chunk - 1) / chunk), 0.0F);
  for (std::int64_t c = 0; c < columns; ++c) {
    float& of_chunk = longest[static_cast<std::size_t>(c / chunk)];
    of_chunk = std::max(of_chunk, near.length[c]);
  }
  for (std::int64_t b = 0; b < near.scores.rows; ++b) {
    const Score* scores = near.scores.data + b * near.scores.row_stride;
    const float bound = near.bound[b];
    Row high(largest, b);
    Row low(smallest, b);
    for (std::int64_t begin = 0; begin < columns; begin += chunk) {
      const std::int64_t end = std::min(columns, begin + chunk);
      const Range range =
          end - begin == chunk ? range_of(scores + begin) : Range{-infinity, infinity};  // anything
      const float margin = bound * longest[static_cast<std::size_t>(begin / chunk)];
      const bool above = high.wants(range.most, near.unit, margin);
      const bool below = low.wants(-range.least, near.unit, margin);
      if (!above && !below) {
        continue;
      }
      for (std::int64_t c = begin; c < end; ++c) {
        if (!(near.length[c] > 0)) {
          continue;
        }
        const float score = value_of(scores[c]);
        const float own = bound * near.length[c];
        const auto column = static_cast<std::int32_t>(near.first + c);
        if (above) {
          high.see(score, near.unit, own, column);
        }
        if (below) {
          low.see(-score, near.unit, own, column);
        }
      }
    }
    largest.number[b] = high.number();
    smallest.number[b] = low.number();
  }
}

template void score_candidates(const NearScores<float>&, const ScoreCandidates&,
                               const ScoreCandidates&);
template void score_candidates(const NearScores<std::uint16_t>&, const ScoreCandidates&,
                               const ScoreCandidates&);

void exact_scores(MatrixView<const float> rows, MatrixView<const double> directions,
                  const std::int64_t* owner, float* out) {
  constexpr int lanes = 8;
  const std::int64_t whole = rows.cols / lanes * lanes;
  for (std::int64_t i = 0; i < rows.rows; ++i) {
    const float* row = rows.data + i * rows.row_stride;
    const double* direction = directions.data + owner[i] * directions.row_stride;
    double sum[lanes] = {};
    for (std::int64_t e = 0; e < whole; e += lanes) {
      for (int l = 0; l < lanes; ++l) {
        sum[l] += static_cast<double>(row[e + l]) * direction[e + l];
      }
    }
    for (std::int64_t e = whole; e < rows.cols; ++e) {
      sum[e - whole] += static_cast<double>(row[e]) * direction[e];
    }
    double total = 0;
    for (const double part : sum) {
      total += part;
    }
    out[i] = static_cast<float>(total);
  }
}

}  // namespace pyneurons
