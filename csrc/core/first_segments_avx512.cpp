#include "simd_avx512.hpp"  // first: the vector type that the kernel is written in

#include "first_segments.inl"
