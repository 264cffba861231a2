#include "pyneurons/dispatch.hpp"

#include <array>
#include <atomic>
#include <cstddef>

#include "kernel_table.hpp"
#include "pyneurons/cpu_features.hpp"

namespace pyneurons {
namespace {

/// Those that count and test bits come from `bits`, those that round to bfloat16 from `isa`.
#define PYNEURONS_TABLE(isa, bits)                                                                \
  Kernels {                                                                                       \
    &bits::segment_counts, &bits::firing_rows, &bits::first_segments, &bits::ngram_keys_u16,      \
        &bits::ngram_keys_u32, &bits::ngram_coverage, &bits::ngram_triggers, &bits::ffn_epilogue, \
        &isa::layer_norm, &isa::ffn_space, &isa::ffn, &isa::attention_space, &isa::attention,     \
        &isa::linear_space, &isa::linear, &isa::linear_split                                      \
  }

constexpr Kernels scalar_kernels = PYNEURONS_TABLE(scalar, scalar);
#ifdef PYNEURONS_X86_64
constexpr Kernels avx2_kernels = PYNEURONS_TABLE(avx2, avx2);
constexpr Kernels avx512_kernels = PYNEURONS_TABLE(avx512, avx512);
constexpr Kernels avx512bf16_kernels = PYNEURONS_TABLE(avx512bf16, avx512);
constexpr Kernels amx_kernels = PYNEURONS_TABLE(amx, avx512);
#endif

#undef PYNEURONS_TABLE

/// A set that is not compiled in is absent: null, never a set of empty functions.
constexpr std::array<const Kernels*, isa_count> table = {
    &scalar_kernels,
#ifdef PYNEURONS_X86_64
    &avx2_kernels,   &avx512_kernels, &avx512bf16_kernels, &amx_kernels,
#else
    nullptr,         nullptr, nullptr, nullptr,
#endif
};

constexpr std::array<const char*, op_count> op_names = {
    "segment_counts", "firing_rows",  "first_segments", "ngram_keys", "ngram_coverage",
    "ngram_triggers", "ffn_epilogue", "layer_norm",     "ffn",        "attention",
    "linear",         "linear_split",
};

std::atomic<std::int64_t> calls[op_count][isa_count];

std::size_t index(Isa isa) {
  return static_cast<std::size_t>(isa);
}

}  // namespace

const char* op_name(Op op) {
  return op_names[static_cast<std::size_t>(op)];
}

bool compiled(Isa isa) {
  return table[index(isa)] != nullptr;
}

const Kernels& kernels(Isa isa) {
  if (!compiled(isa)) {
    throw std::invalid_argument("instruction set " + std::string(isa_name(isa)) +
                                " is not compiled in");
  }
  if (!cpu_supports(isa)) {
    throw std::invalid_argument("this processor or operating system does not run " +
                                std::string(isa_name(isa)));
  }
  return *table[index(isa)];
}

void record(Op op, Isa isa) {
  calls[static_cast<std::size_t>(op)][index(isa)].fetch_add(1, std::memory_order_relaxed);
}

std::int64_t executed(Op op, Isa isa) {
  return calls[static_cast<std::size_t>(op)][index(isa)].load(std::memory_order_relaxed);
}

Isa detect() {
  Isa best = Isa::scalar;
  for (const Isa isa : all_isas) {
    if (compiled(isa) && cpu_supports(isa)) {
      best = isa;
    }
  }
  return best;
}

}  // namespace pyneurons
