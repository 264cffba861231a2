#define PYNEURONS_ISA amx

#include "floats_avx512.hpp"  // first: the vector type that the kernel is written in

#include "layer_norm.inl"
