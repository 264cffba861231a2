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
/// a * b + c, rounded once.
inline Floats fused(Floats a, Floats b, Floats c) {
  return __builtin_fmaf(a, b, c);
}
/// The same for a and b from bfloat16, without a call: their product has 16 bits, so that what f64
/// drops of the sum is too far off to change its rounding to f32; and a product below 2^-126
/// counts.
inline Floats fused_exact(Floats a, Floats b, Floats c) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) +
                            static_cast<double>(c));
}
/// The larger one; b where a is NaN or both are 0.
inline Floats larger(Floats a, Floats b) {
  return a > b ? a : b;
}
/// x, from -200 to 128: floor is then finite, 2^floor 0 or infinite all the same.
inline Floats bounded(Floats x) {
  return x < -200.0F ? -200.0F : x > 128.0F ? 128.0F : x;
}
/// `then` where a > limit, `otherwise` elsewhere and where one is NaN.
inline Floats where_above(Floats a, Floats limit, Floats then, Floats otherwise) {
  return a > limit ? then : otherwise;
}
/// x - floor(x), 0 where x is infinite or 2^x is; NaN stays NaN.
inline Floats above_floor(Floats x) {
  return bounded(x) - __builtin_floorf(bounded(x));
}
/// a * 2^floor(x) for a from 1 to 2; 0 below 2^-126, infinite from 2^128 on.
inline Floats times_two_to(Floats a, Floats x) {
  const float power = __builtin_floorf(bounded(x));
  if (power < -126.0F) {
    return 0.0F;
  }
  if (power != power) {
    return power;
  }
  return a * bits_float(static_cast<std::uint32_t>(static_cast<int>(power) + 127) << 23);
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
inline void store_bfloat16(std::uint16_t* values, Floats first, Floats second) {
  store_bfloat16(values, first);
  store_bfloat16(values + float_lanes, second);
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
/// to[column][row] = from[row][column], 16 by 16 words.
inline void transpose(const std::uint32_t* from, std::int64_t from_stride, std::uint32_t* to,
                      std::int64_t to_stride) {
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      to[column * to_stride + row] = from[row * from_stride + column];
    }
  }
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
