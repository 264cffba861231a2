#define PYNEURONS_ISA amx

#include "floats_avx512.hpp"  // first: the vector type that the kernel is written in

#include "tiles_amx.hpp"

#include "products_of_blocks.inl"

#include "linear.inl"
