#include "floats_scalar.hpp"  // first: the vector type that the kernel is written in

#include "tiles_scalar.hpp"

#include "products_of_blocks.inl"

#include "linear.inl"
