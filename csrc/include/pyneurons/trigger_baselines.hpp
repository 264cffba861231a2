#pragma once

#include <cstdint>

#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// What triggers are compared with. A token is a column of the scores, 0 to V - 1.
struct Baselines {
  const std::int32_t* drawn;  // [n_drawn] tokens drawn from the corpus, some more than once
  std::int64_t n_drawn;
  const std::int32_t* by_count;  // [V] the tokens by corpus count
  const std::int32_t* place;     // [V] where each stands in by_count
  const std::int64_t* count;     // [V] how often each is in the corpus
};

/// G groups of triggers: those of one neuron and one n. A trigger is in its group once.
struct TriggerGroups {
  const std::int64_t* row;      // [G] the row of scores that is the group's neuron
  const std::int64_t* offsets;  // [G + 1] group g holds triggers offsets[g] to offsets[g + 1]
  std::int64_t size;            // G
  const std::int32_t* trigger;  // [N]
};

/// The scores of some tokens, summed up.
struct ScoreTotals {
  double* sum;                      // [rows of counts], in f64, in the order of the tokens
  MatrixView<std::int32_t> counts;  // [, 3] how many tokens; with score < 0; with score < mean
};

/// Ranks the triggers of neurons and sums up the scores of the tokens they are compared with.
///
///   rank[i]     how many scores of the neuron are larger than that of trigger i
///   random[g]   of the first `most_random` drawn tokens that are none of the group's triggers
///   matched[i]  of the `most_matched` tokens nearest trigger i in corpus count, then in place,
///   then
///               the rarer, that are none of the group's triggers
///
/// scores [B, V] f32; mean [B] f64; rank [N]; random has G rows, matched N
///
/// Cost: V comparisons and 2 * most_matched steps a trigger, `most_random` a group.
void trigger_baselines(MatrixView<const float> scores, const double* mean,
                       const TriggerGroups& groups, const Baselines& baselines,
                       std::int64_t most_random, std::int64_t most_matched, std::int32_t* rank,
                       const ScoreTotals& random, const ScoreTotals& matched);

}  // namespace pyneurons
