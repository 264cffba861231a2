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
/// a * b + c, rounded once.
inline Floats fused(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
/// The larger one; b where a is NaN or both are 0.
inline Floats larger(Floats a, Floats b) {
  return _mm512_max_ps(a, b);
}
/// `then` where a > limit, `otherwise` elsewhere and where one is NaN.
inline Floats where_above(Floats a, Floats limit, Floats then, Floats otherwise) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, limit, _CMP_GT_OQ), otherwise, then);
}
/// x - floor(x), 0 where x is infinite; NaN stays NaN.
inline Floats above_floor(Floats x) {
  return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
/// a * 2^floor(x) for a from 1 to 2; 0 below 2^-126, infinite from 2^128 on.
inline Floats times_two_to(Floats a, Floats x) {
  return _mm512_scalef_ps(a, x);
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
/// to[column][row] = from[row][column], 16 by 16 words.
inline void transpose(const std::uint32_t* from, std::int64_t from_stride, std::uint32_t* to,
                      std::int64_t to_stride) {
  __m512i a[16];
  __m512i b[16];
  for (int i = 0; i < 16; ++i) {
    a[i] = _mm512_loadu_si512(from + i * from_stride);
  }
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xDD);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xDD);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_si512(to + i * to_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
    _mm512_storeu_si512(to + (i + 8) * to_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xDD));
    _mm512_storeu_si512(to + (i + 4) * to_stride, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88));
    _mm512_storeu_si512(to + (i + 12) * to_stride, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xDD));
  }
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
