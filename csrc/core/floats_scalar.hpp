#pragma once

#include "simd_scalar.hpp"  // first: it names the instruction set

#include "bfloat16.inl"

/// f32 one at a time.
namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr int float_lanes = 1;
constexpr int live_vectors = 16;
using Floats = float;

/// Denormals count as 0, in and out, as a matrix engine takes them; returns what was before.
inline unsigned flush_denormals() {
#if defined(__SSE__)
  const unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(before | 0x8040);
  return before;
#else
  return 0;
#endif
}
inline void restore_control(unsigned before) {
#if defined(__SSE__)
  __builtin_ia32_ldmxcsr(before);
#else
  static_cast<void>(before);
#endif
}

inline Floats load(const float* values) {
  return *values;
}
inline void store(float* values, Floats a) {
  *values = a;
}
inline Floats broadcast(float value) {
  return value;
}
inline Floats add(Floats a, Floats b) {
  return a + b;
}
inline Floats subtract(Floats a, Floats b) {
  return a - b;
}
inline Floats multiply(Floats a, Floats b) {
  return a * b;
}
inline Floats divide(Floats a, Floats b) {
  return a / b;
}
/// a * b + c, rounded once, of a and b from bfloat16: their product has 16 bits, so that what f64
/// drops of the sum is too far off to change its rounding to f32; and a product below 2^-126
/// counts.
inline Floats fused(Floats a, Floats b, Floats c) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) +
                            static_cast<double>(c));
}
/// The larger one; b where a is NaN or both are 0.
inline Floats larger(Floats a, Floats b) {
  return a > b ? a : b;
}
/// The value, or the limit where it is smaller; NaN stays NaN.
inline Floats keep_above(Floats value, Floats limit) {
  return value < limit ? limit : value;
}
inline Floats round_even(Floats a) {
  return __builtin_nearbyintf(a);
}
/// a * 2^power, the power whole and from -126 to 127.
inline Floats times_power(Floats a, Floats power) {
  return a * bits_float(static_cast<std::uint32_t>(static_cast<int>(power) + 127) << 23);
}
/// 0 where x < limit.
inline Floats zero_below(Floats a, Floats x, Floats limit) {
  return x < limit ? 0.0F : a;
}
/// To the nearest bfloat16, ties to even, as f32.
inline Floats round_bfloat16(Floats a) {
  const std::uint32_t bits = static_cast<std::uint32_t>(float_bits(a));
  return bits_float((bits + ((bits >> 16) & 1) + 0x7FFF) & 0xFFFF0000u);
}
/// The bits of a number rounded to bfloat16.
inline void store_bfloat16(std::uint16_t* values, Floats a) {
  *values =
      static_cast<std::uint16_t>(static_cast<std::uint32_t>(float_bits(round_bfloat16(a))) >> 16);
}
/// A pair of bfloat16.
inline void load_pairs(const std::uint16_t* values, Floats& first, Floats& second) {
  first = bits_float(static_cast<std::uint32_t>(values[0]) << 16);
  second = bits_float(static_cast<std::uint32_t>(values[1]) << 16);
}
/// 1 where it is above 0; a NaN is not.
inline std::uint32_t positive(Floats a) {
  return a > 0 ? 1 : 0;
}
/// 1 where it is NaN or infinite.
inline std::uint32_t not_finite(Floats a) {
  return (float_bits(a) & 0x7F800000) == 0x7F800000 ? 1 : 0;
}
inline float largest_lane(Floats a) {
  return a;
}
/// Sum of 16 lanes: the halves added, then the halves of that, to one.
inline float tree_sum(const float* lanes) {
  float sums[16];
  std::memcpy(sums, lanes, sizeof sums);
  for (int half = 8; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) {
      sums[lane] += sums[lane + half];
    }
  }
  return sums[0];
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
