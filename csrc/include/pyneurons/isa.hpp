#pragma once

namespace pyneurons {

/// The instruction sets that kernels are written for, in ascending order of preference. The last
/// two have kernels of their own for products of bfloat16, and those of avx512 for all else.
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, avx512bf16 = 3, amx = 4 };

inline constexpr int isa_count = 5;
inline constexpr Isa all_isas[isa_count] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512bf16,
                                            Isa::amx};

}  // namespace pyneurons
