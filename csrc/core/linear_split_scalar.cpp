#include "floats_scalar.hpp"  // first: the vector type that the kernel is written in

#include "tiles_scalar.hpp"

#include "split_tiles.inl"

#include "linear_split.inl"
