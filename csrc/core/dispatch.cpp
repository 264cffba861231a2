#include "pyneurons/dispatch.hpp"

#include <array>
#include <atomic>
#include <cstddef>

#include "kernel_table.hpp"
#include "pyneurons/cpu_features.hpp"

namespace pyneurons {
namespace {

#define PYNEURONS_TABLE(isa)                                                             \
  Kernels {                                                                              \
    &isa::segment_counts, &isa::firing_rows, &isa::ngram_keys_u16, &isa::ngram_keys_u32, \
        &isa::ngram_coverage, &isa::ngram_triggers, &isa::ffn_epilogue_f32,              \
        &isa::ffn_epilogue_bf16, &isa::attention                                         \
  }

constexpr Kernels scalar_kernels = PYNEURONS_TABLE(scalar);
#ifdef PYNEURONS_HAS_AVX2
constexpr Kernels avx2_kernels = PYNEURONS_TABLE(avx2);
#endif
#ifdef PYNEURONS_HAS_AVX512
constexpr Kernels avx512_kernels = PYNEURONS_TABLE(avx512);
#endif

#undef PYNEURONS_TABLE

/// A set that is not compiled in is absent: null, never a set of empty functions.
constexpr std::array<const Kernels*, isa_count> table = {
    &scalar_kernels,
#ifdef PYNEURONS_HAS_AVX2
    &avx2_kernels,
#else
    nullptr,
#endif
#ifdef PYNEURONS_HAS_AVX512
    &avx512_kernels,
#else
    nullptr,
#endif
};

constexpr std::array<const char*, op_count> op_names = {
    "segment_counts", "firing_rows",  "ngram_keys", "ngram_coverage",
    "ngram_triggers", "ffn_epilogue", "attention",
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
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    if (compiled(isa) && cpu_supports(isa)) {
      best = isa;
    }
  }
  return best;
}

}  // namespace pyneurons
