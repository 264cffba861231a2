#pragma once

#include "simd_scalar.hpp"

/// f32 one at a time.
namespace pyneurons::scalar {
namespace {

constexpr int float_lanes = 1;
constexpr int tile_rows = 2;
constexpr int tile_vectors = 4;
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
/// a * b + c; the product of two bfloat16 is exact, so that fused or not is the same.
inline Floats fused(Floats a, Floats b, Floats c) {
  return a * b + c;
}
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
}  // namespace pyneurons::scalar
