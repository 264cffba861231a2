#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "pyneurons/cpu_features.hpp"

namespace pyneurons {

/// The ops that have a kernel per instruction set.
enum class Op : int {
  segment_counts,
  firing_rows,
  first_segments,
  ngram_keys,
  ngram_coverage,
  ngram_triggers,
  ffn_epilogue,
  layer_norm,
  ffn,
  attention,
  linear,
  linear_split
};

inline constexpr int op_count = 12;

/// The op's name, as in Python.
const char* op_name(Op op);

/// Data that contradict each other; `neuron` is the first one concerned.
struct Contradiction : std::runtime_error {
  Contradiction(std::int64_t neuron_, std::int64_t found_)
      : std::runtime_error("the data contradict each other"), neuron(neuron_), found(found_) {}
  std::int64_t neuron;
  std::int64_t found;
};

/// Whether kernels for the instruction set are compiled in.
bool compiled(Isa isa);

/// How many kernel calls of `op` ran code compiled for `isa` since the start of the process.
///
/// A kernel reports the instruction set of its own translation unit, so the number proves what ran,
/// not what was asked for.
std::int64_t executed(Op op, Isa isa);

}  // namespace pyneurons
