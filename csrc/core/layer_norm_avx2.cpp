#include "floats_avx2.hpp"  // first: the vector type that the kernel is written in

#include "layer_norm.inl"
