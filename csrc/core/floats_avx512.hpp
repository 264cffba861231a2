#pragma once

#include "simd_avx512.hpp"  // first: it names the instruction set

#include "bfloat16.inl"

/// f32 sixteen at a time.
namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr int float_lanes = 16;
constexpr int product_rows = 4;  // 16 sums, 4 operands, 8 factors: 28 of 32 registers
constexpr int product_vectors = 2;
constexpr int live_vectors = 8;  // 24 sums, 2 factors, 2 operands: 28 of 32 registers
using Floats = __m512;

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
  return _mm512_loadu_ps(values);
}
inline void store(float* values, Floats a) {
  _mm512_storeu_ps(values, a);
}
inline Floats broadcast(float value) {
  return _mm512_set1_ps(value);
}
inline Floats add(Floats a, Floats b) {
  return _mm512_add_ps(a, b);
}
inline Floats subtract(Floats a, Floats b) {
  return _mm512_sub_ps(a, b);
}
inline Floats multiply(Floats a, Floats b) {
  return _mm512_mul_ps(a, b);
}
inline Floats divide(Floats a, Floats b) {
  return _mm512_div_ps(a, b);
}
/// a * b + c; the product of two bfloat16 is exact, so that fused or not is the same.
inline Floats fused(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
/// The larger one; b where a is NaN or both are 0.
inline Floats larger(Floats a, Floats b) {
  return _mm512_max_ps(a, b);
}
/// The value, or the limit where it is smaller; NaN stays NaN.
inline Floats keep_above(Floats value, Floats limit) {
  return _mm512_max_ps(limit, value);
}
inline Floats round_even(Floats a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// a * 2^power, the power whole and from -126 to 127.
inline Floats times_power(Floats a, Floats power) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(power), _mm512_set1_epi32(127));
  return _mm512_mul_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23)));
}
/// 0 where x < limit.
inline Floats zero_below(Floats a, Floats x, Floats limit) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), a);
}
/// To the nearest bfloat16, ties to even, as f32.
inline Floats round_bfloat16(Floats a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7FFF));
  return _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(-0x10000)));
}
/// The bits of 16 numbers rounded to bfloat16.
inline void store_bfloat16(std::uint16_t* values, Floats a) {
#ifdef __AVX512BF16__
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), (__m256i)_mm512_cvtneps_pbh(a));
#else
  const __m512i bits = _mm512_srli_epi32(_mm512_castps_si512(round_bfloat16(a)), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), _mm512_cvtepi32_epi16(bits));
#endif
}
/// The bits of 32 numbers rounded to bfloat16.
inline void store_bfloat16(std::uint16_t* values, Floats first, Floats second) {
#ifdef __AVX512BF16__
  _mm512_storeu_si512(values, (__m512i)_mm512_cvtne2ps_pbh(second, first));
#else
  store_bfloat16(values, first);
  store_bfloat16(values + float_lanes, second);
#endif
}
/// Pairs of bfloat16, the first of each and the second of each.
inline void load_pairs(const std::uint16_t* values, Floats& first, Floats& second) {
  const __m512i pairs = _mm512_loadu_si512(values);
  first = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  second = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)));
}
/// Bits of the lanes that are above 0; a NaN is not.
inline std::uint32_t positive(Floats a) {
  return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GT_OQ);
}
/// Bits of the lanes that are NaN or infinite.
inline std::uint32_t not_finite(Floats a) {
  const __m512i infinity = _mm512_set1_epi32(0x7F800000);
  return _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_castps_si512(a), infinity), infinity);
}
inline float largest_lane(Floats a) {
  return _mm512_reduce_max_ps(a);
}
/// Sum of 16 lanes: the halves added, then the halves of that, to one.
inline float tree_sum(const float* lanes) {
  const __m512 all = _mm512_loadu_ps(lanes);
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
