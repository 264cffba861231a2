#pragma once

#include "simd_avx2.hpp"  // first: it names the instruction set

#include "bfloat16.inl"

/// f32 eight at a time.
namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr int float_lanes = 8;
constexpr int product_rows = 4;  // 8 sums, 2 operands, 1 factor: 11 of 16 registers
constexpr int product_vectors = 1;
constexpr int live_vectors = 4;  // 8 sums, 2 factors, 2 operands: 12 of 16 registers
using Floats = __m256;

/// Denormals count as 0, in and out, as a matrix engine takes them; returns what was before.
inline unsigned flush_denormals() {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);
  return before;
}
inline void restore_control(unsigned before) {
  _mm_setcsr(before);
}

inline Floats load(const float* values) {
  return _mm256_loadu_ps(values);
}
inline void store(float* values, Floats a) {
  _mm256_storeu_ps(values, a);
}
inline Floats broadcast(float value) {
  return _mm256_set1_ps(value);
}
inline Floats add(Floats a, Floats b) {
  return _mm256_add_ps(a, b);
}
inline Floats subtract(Floats a, Floats b) {
  return _mm256_sub_ps(a, b);
}
inline Floats multiply(Floats a, Floats b) {
  return _mm256_mul_ps(a, b);
}
inline Floats divide(Floats a, Floats b) {
  return _mm256_div_ps(a, b);
}
/// a * b + c, rounded once.
inline Floats fused(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}
/// The larger one; b where a is NaN or both are 0.
inline Floats larger(Floats a, Floats b) {
  return _mm256_max_ps(a, b);
}
/// x, from -200 to 128: floor is then finite, 2^floor 0 or infinite all the same.
inline Floats bounded(Floats x) {
  return _mm256_min_ps(_mm256_set1_ps(128.0F), _mm256_max_ps(_mm256_set1_ps(-200.0F), x));
}
/// `then` where a > limit, `otherwise` elsewhere and where one is NaN.
inline Floats where_above(Floats a, Floats limit, Floats then, Floats otherwise) {
  return _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps(a, limit, _CMP_GT_OQ));
}
/// x - floor(x), 0 where x is infinite or 2^x is; NaN stays NaN.
inline Floats above_floor(Floats x) {
  return _mm256_sub_ps(bounded(x), _mm256_floor_ps(bounded(x)));
}
/// a * 2^floor(x) for a from 1 to 2; 0 below 2^-126, infinite from 2^128 on.
inline Floats times_two_to(Floats a, Floats x) {
  const Floats power = _mm256_floor_ps(bounded(x));
  const Floats least = _mm256_set1_ps(-126.0F);
  const __m256i whole = _mm256_cvtps_epi32(_mm256_max_ps(power, least));
  const __m256i biased = _mm256_slli_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(biased)),
                       _mm256_cmp_ps(power, least, _CMP_NLT_UQ));
}
/// To the nearest bfloat16, ties to even, as f32.
inline Floats round_bfloat16(Floats a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7FFF));
  return _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(-0x10000)));
}
/// The bits of 8 numbers rounded to bfloat16.
inline void store_bfloat16(std::uint16_t* values, Floats a) {
  const __m256i bits = _mm256_srli_epi32(_mm256_castps_si256(round_bfloat16(a)), 16);
  const __m128i narrow =
      _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(values), narrow);
}
inline void store_bfloat16(std::uint16_t* values, Floats first, Floats second) {
  store_bfloat16(values, first);
  store_bfloat16(values + float_lanes, second);
}
/// Pairs of bfloat16, the first of each and the second of each.
inline void load_pairs(const std::uint16_t* values, Floats& first, Floats& second) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  second = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-0x10000)));
}
/// Bits of the lanes that are above 0; a NaN is not.
inline std::uint32_t positive(Floats a) {
  return static_cast<std::uint32_t>(
      _mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GT_OQ)));
}
/// Bits of the lanes that are NaN or infinite.
inline std::uint32_t not_finite(Floats a) {
  const __m256i infinity = _mm256_set1_epi32(0x7F800000);
  const __m256i odd =
      _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(a), infinity), infinity);
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(odd)));
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
