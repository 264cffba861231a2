#include "simd_avx2.hpp"  // first: the vector type that the kernel is written in

#include "first_segments.inl"
