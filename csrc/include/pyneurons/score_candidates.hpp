#pragma once

#include <cstdint>

#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// What is known of one end of the scores of each of B neurons.
///
/// low     [B, top] f32  the largest lower bounds seen, in no order: their minimum is the threshold
/// column  [B, room] i32 candidates
/// upper   [B, room] f32 upper bounds of their scores
/// number  [B] i32       how many candidates there are; -1: more than there is room for
struct ScoreCandidates {
  MatrixView<float> low;
  MatrixView<std::int32_t> column;
  MatrixView<float> upper;
  std::int32_t* number;
};

/// Scores near their true values: |true - score| <= unit * |score| + bound[neuron] *
/// length[column].
///
/// Score is f32, or u16, the bits of bfloat16. A column of length 0 or less is not there.
template <typename Score>
struct NearScores {
  MatrixView<const Score> scores;  // [B, C]
  const float* length;             // [C]
  const float* bound;              // [B]
  float unit;
  std::int32_t first;  // what column 0 counts as
};

/// Lists the columns that may be among the `top` largest scores of each neuron, and among the
/// smallest: there with the negated scores.
///
///   upper = s + unit |s| + bound length,  lower = s - (unit |s| + bound length)
///   low   = the `top` largest of `low` and all lower
///
/// Afterwards, at least the columns with upper >= min(low) are listed, or the number is -1; that
/// depends neither on how columns are cut into calls nor on their order. Others may still be listed
/// that a lower threshold let in. A NaN is never listed.
///
/// Cost: B C scores read once; of each 32, the largest and smallest are compared with thresholds.
template <typename Score>
void score_candidates(const NearScores<Score>& near, const ScoreCandidates& largest,
                      const ScoreCandidates& smallest);

/// out[i] = <rows[i], directions[owner[i]]>, the products and the sum in f64, rounded to f32.
///
/// Term e goes to sum e % 8, and the eight are added in order: the same bits wherever a row lies.
///
/// rows [N, E] f32; directions [B, E] f64; owner [N] i64, 0 to B - 1; out [N]
void exact_scores(MatrixView<const float> rows, MatrixView<const double> directions,
                  const std::int64_t* owner, float* out);

}  // namespace pyneurons
