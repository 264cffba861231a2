#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "pyneurons/isa.hpp"

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || \
    !defined(__AVX512VL__)
#  error "this file is compiled with the flags of avx512"
#endif

#ifndef PYNEURONS_ISA  // else one that builds on it
#  define PYNEURONS_ISA avx512
#endif

/// Bits of the mask sixteen words at a time.
namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr Isa isa = Isa::PYNEURONS_ISA;
constexpr int vec_words = 16;
using Vec = __m512i;

inline Vec zero() {
  return _mm512_setzero_si512();
}

inline Vec ones() {
  return _mm512_set1_epi32(-1);
}

inline Vec load(const std::uint32_t* words) {
  return _mm512_loadu_si512(words);
}

/// The first `count` words, zeros behind them; 0 < count < vec_words.
inline Vec load_first(const std::uint32_t* words, int count) {
  return _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1), words);
}

inline void store(std::uint32_t* words, Vec value) {
  _mm512_storeu_si512(words, value);
}

inline Vec bit_and(Vec a, Vec b) {
  return _mm512_and_si512(a, b);
}
inline Vec bit_xor(Vec a, Vec b) {
  return _mm512_xor_si512(a, b);
}
inline Vec bit_or(Vec a, Vec b) {
  return _mm512_or_si512(a, b);
}
inline Vec and_not(Vec a, Vec b) {
  return _mm512_andnot_si512(b, a);
}
inline bool any(Vec a) {
  return _mm512_test_epi32_mask(a, a) != 0;
}

/// sum + b + c = new sum + 2 * carry, in every bit.
inline void full_add(Vec& sum, Vec b, Vec c, Vec& carry) {
  carry = _mm512_ternarylogic_epi32(sum, b, c, 0xE8);  // majority
  sum = _mm512_ternarylogic_epi32(sum, b, c, 0x96);    // parity
}

/// sum[b] = bit b of each of `used` words, vec_words apart, times 1, 2, 4, ...
inline void weigh(const std::uint32_t* words, int used, std::uint32_t* sum) {
  __m512i low = _mm512_setzero_si512();
  __m512i high = low;
  __m512i weight = _mm512_set1_epi32(1);
  for (int k = 0; k < used; ++k) {
    const std::uint32_t word = words[k * vec_words];
    low = _mm512_mask_add_epi32(low, static_cast<__mmask16>(word), low, weight);
    high = _mm512_mask_add_epi32(high, static_cast<__mmask16>(word >> 16), high, weight);
    weight = _mm512_add_epi32(weight, weight);
  }
  _mm512_storeu_si512(sum, low);
  _mm512_storeu_si512(sum + 16, high);
}

/// Pre-activations of 32 neurons of one row: who fires (returned), which are not finite, ReLU in
/// place, running maximum. Compared as integers: that holds with denormals switched off, too.
inline std::uint32_t epilogue_word(float* z, float* z_max, std::uint32_t& wrong) {
  const __m512i infinity = _mm512_set1_epi32(0x7F800000);
  std::uint32_t fires = 0;
  for (int part = 0; part < 2; ++part) {
    const __m512 value = _mm512_loadu_ps(z + 16 * part);
    const __m512i bits = _mm512_castps_si512(value);
    const __mmask16 on = _mm512_mask_cmple_epi32_mask(
        _mm512_cmpgt_epi32_mask(bits, _mm512_setzero_si512()), bits, infinity);
    const __mmask16 odd = _mm512_cmpeq_epi32_mask(_mm512_and_si512(bits, infinity), infinity);
    const __m512 most = _mm512_max_ps(value, _mm512_loadu_ps(z_max + 16 * part));
    _mm512_storeu_ps(z_max + 16 * part, most);
    _mm512_storeu_ps(z + 16 * part, _mm512_maskz_mov_ps(on, value));
    fires |= static_cast<std::uint32_t>(on) << (16 * part);
    wrong |= static_cast<std::uint32_t>(odd) << (16 * part);
  }
  return fires;
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
