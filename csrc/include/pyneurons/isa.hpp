#pragma once

namespace pyneurons {

/// The instruction sets that kernels are written for, in ascending order of preference.
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2 };

inline constexpr int isa_count = 3;

}  // namespace pyneurons
