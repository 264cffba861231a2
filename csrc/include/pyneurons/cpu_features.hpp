#pragma once

#include <optional>
#include <string_view>

#include "pyneurons/isa.hpp"

namespace pyneurons {

/// "scalar", "avx2", "avx512", "avx512bf16" or "amx".
std::string_view isa_name(Isa isa);

/// The instruction set of that name, or nothing.
std::optional<Isa> isa_from_name(std::string_view name);

/// Whether this processor and its operating system run the instruction set.
///
/// The processor says so in CPUID; that the operating system saves the wider registers across a
/// switch of threads is a second question, answered by XCR0 (bits 1-2 for AVX2, 5-7 for AVX-512,
/// 17-18 for AMX, whose registers Linux also wants to be asked for).
bool cpu_supports(Isa isa);

/// The best instruction set that is compiled in and runs here.
Isa detect();

}  // namespace pyneurons
