#include "floats_scalar.hpp"  // first: the vector type that the kernel is written in

#include "tiles_scalar.hpp"

#include "products_tiles.inl"

#include "ffn.inl"
