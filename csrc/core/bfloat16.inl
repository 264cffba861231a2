// bfloat16 as its bits. Included once per instruction set, behind its simd_*.hpp.

#pragma once

#include <cstdint>
#include <cstring>

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// The value of the 16 low bits; those above have to be 0.
inline float from_bfloat16(std::uint32_t bits) {
  bits <<= 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
