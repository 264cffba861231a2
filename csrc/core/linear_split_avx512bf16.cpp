#define PYNEURONS_ISA avx512bf16

#include "floats_avx512.hpp"  // first: the vector type that the kernel is written in

// Not VDPBF16PS, whose sums have another order.
#include "split_fma.inl"

#include "linear_split.inl"
