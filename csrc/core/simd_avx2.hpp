#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "pyneurons/isa.hpp"

#if !defined(__AVX2__) || !defined(__BMI2__) || defined(__AVX512F__)
#  error "this file is compiled with the flags of avx2, and no more"
#endif

#define PYNEURONS_ISA avx2

/// Bits of the mask eight words at a time.
namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr Isa isa = Isa::PYNEURONS_ISA;
constexpr int vec_words = 8;
using Vec = __m256i;

inline Vec zero() {
  return _mm256_setzero_si256();
}

inline Vec ones() {
  return _mm256_set1_epi32(-1);
}

inline Vec load(const std::uint32_t* words) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
}

/// The first `count` words, zeros behind them; 0 < count < vec_words.
inline Vec load_first(const std::uint32_t* words, int count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i wanted = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes);
  return _mm256_maskload_epi32(reinterpret_cast<const int*>(words), wanted);
}

inline void store(std::uint32_t* words, Vec value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), value);
}

inline Vec bit_and(Vec a, Vec b) {
  return _mm256_and_si256(a, b);
}
inline Vec bit_xor(Vec a, Vec b) {
  return _mm256_xor_si256(a, b);
}
inline Vec bit_or(Vec a, Vec b) {
  return _mm256_or_si256(a, b);
}
inline Vec and_not(Vec a, Vec b) {
  return _mm256_andnot_si256(b, a);
}
inline bool any(Vec a) {
  return _mm256_testz_si256(a, a) == 0;
}

/// sum + b + c = new sum + 2 * carry, in every bit.
inline void full_add(Vec& sum, Vec b, Vec c, Vec& carry) {
  const Vec half = bit_xor(sum, b);
  carry = bit_or(bit_and(sum, b), bit_and(half, c));
  sum = bit_xor(half, c);
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

/// Pre-activations of 32 neurons of one row: who fires (returned), which are not finite, ReLU in
/// place, running maximum. Compared as integers: that holds with denormals switched off, too.
inline std::uint32_t epilogue_word(float* z, float* z_max, std::uint32_t& wrong) {
  const __m256i infinity = _mm256_set1_epi32(0x7F800000);
  std::uint32_t fires = 0;
  for (int part = 0; part < 4; ++part) {
    const __m256 value = _mm256_loadu_ps(z + 8 * part);
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i on = _mm256_andnot_si256(_mm256_cmpgt_epi32(bits, infinity),
                                           _mm256_cmpgt_epi32(bits, _mm256_setzero_si256()));
    const __m256i odd = _mm256_cmpeq_epi32(_mm256_and_si256(bits, infinity), infinity);
    const __m256 most = _mm256_max_ps(value, _mm256_loadu_ps(z_max + 8 * part));
    _mm256_storeu_ps(z_max + 8 * part, most);
    _mm256_storeu_ps(z + 8 * part, _mm256_castsi256_ps(_mm256_and_si256(on, bits)));
    fires |= static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(on))) << (8 * part);
    wrong |= static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(odd))) << (8 * part);
  }
  return fires;
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
