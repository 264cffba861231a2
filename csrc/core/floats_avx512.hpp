#pragma once

#include "simd_avx512.hpp"

/// f32 sixteen at a time.
namespace pyneurons::avx512 {
namespace {

constexpr int float_lanes = 16;
constexpr int tile_rows = 4;  // 16 sums, 4 operands, 8 factors: 28 of 32 registers
constexpr int tile_vectors = 2;
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
}  // namespace pyneurons::avx512
