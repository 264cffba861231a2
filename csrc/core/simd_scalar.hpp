#pragma once

#include <cstdint>
#include <cstring>

#include "pyneurons/isa.hpp"

#if defined(__AVX__)
#  error "this file is for the baseline of the target"
#endif

#define PYNEURONS_ISA scalar

/// Bits of the mask two words at a time, in a plain integer register.
namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr Isa isa = Isa::PYNEURONS_ISA;
constexpr int vec_words = 2;
using Vec = std::uint64_t;

inline Vec zero() {
  return 0;
}

inline Vec ones() {
  return ~zero();
}

inline Vec load(const std::uint32_t* words) {
  Vec value;
  std::memcpy(&value, words, sizeof value);
  return value;
}

/// The first `count` words, zeros behind them; 0 < count < vec_words.
inline Vec load_first(const std::uint32_t* words, int count) {
  Vec value = 0;
  std::memcpy(&value, words, sizeof(std::uint32_t) * static_cast<unsigned>(count));
  return value;
}

inline void store(std::uint32_t* words, Vec value) {
  std::memcpy(words, &value, sizeof value);
}

inline Vec bit_and(Vec a, Vec b) {
  return a & b;
}
inline Vec bit_xor(Vec a, Vec b) {
  return a ^ b;
}
inline Vec bit_or(Vec a, Vec b) {
  return a | b;
}
inline Vec and_not(Vec a, Vec b) {
  return a & ~b;
}
inline bool any(Vec a) {
  return a != 0;
}

/// sum + b + c = new sum + 2 * carry, in every bit.
inline void full_add(Vec& sum, Vec b, Vec c, Vec& carry) {
  const Vec half = sum ^ b;
  carry = (sum & b) | (half & c);
  sum = half ^ c;
}

/// sum[b] = bit b of each of `used` words, vec_words apart, times 1, 2, 4, ...
inline void weigh(const std::uint32_t* words, int used, std::uint32_t* sum) {
  for (int b = 0; b < 32; ++b) {
    sum[b] = 0;
  }
  for (int k = 0; k < used; ++k) {
    const std::uint32_t word = words[k * vec_words];
    for (unsigned b = 0; b < 32; ++b) {
      sum[b] += ((word >> b) & 1u) << k;
    }
  }
}

inline std::int32_t float_bits(float value) {
  std::int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float bits_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// Word of 32 flags, each a byte that is 0 or 1.
inline std::uint32_t flag_word(const std::uint8_t* flags) {
  std::uint32_t word = 0;
  for (unsigned part = 0; part < 4; ++part) {
    std::uint64_t bytes = 0;
    for (unsigned i = 0; i < 8; ++i) {
      bytes |= std::uint64_t{flags[8 * part + i]} << (8 * i);
    }
    // The product gathers bit 0 of byte i in bit 56 + i.
    word |= static_cast<std::uint32_t>((bytes * 0x0102040810204080u) >> 56) << (8 * part);
  }
  return word;
}

/// Pre-activations of 32 neurons of one row: who fires (returned), which are not finite, ReLU in
/// place, running maximum. One plain loop, which the compiler makes vectors of, then the packing.
inline std::uint32_t epilogue_word(float* z, float* z_max, std::uint32_t& wrong) {
  std::uint8_t on[32];
  std::uint8_t odd[32];
  for (unsigned b = 0; b < 32; ++b) {
    const float value = z[b];
    const std::int32_t bits = float_bits(value);
    const bool fires = bits > 0 && bits <= 0x7F800000;
    on[b] = fires ? 1 : 0;
    odd[b] = (bits & 0x7F800000) == 0x7F800000 ? 1 : 0;
    z_max[b] = value > z_max[b] ? value : z_max[b];
    z[b] = fires ? value : 0.0F;
  }
  wrong |= flag_word(odd);
  return flag_word(on);
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
