// f32 as a sum of three bfloat16. Included once per instruction set.

#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// The f32 of which only the 16 leading bits are kept: sign, exponent, 8 bits of the significand.
///
/// Cut, not rounded: a rounded part may overflow, and costs three times as many instructions. The
/// parts that follow have the same sign and 8 bits each, 24 in all.
inline float leading(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits &= 0xFFFF0000u;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// 32 terms of a row, zeros behind the first `count`.
struct Terms {
  alignas(64) float value[Panels::chunk];
};

inline const float* whole_chunk(const float* x, std::int64_t count, Terms& terms) {
  if (count >= Panels::chunk) {
    return x;
  }
  std::memset(&terms, 0, sizeof terms);
  std::memcpy(terms.value, x, static_cast<std::size_t>(count) * sizeof *x);
  return terms.value;
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
