#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// LayerNorm over the last axis, in f32, rounded to bfloat16.
///
///   m = sum_e x[e] / D,  v = sum_e (x[e] - m)^2 / D
///   out[e] = bfloat16((x[e] - m) * (1 / sqrt(v + epsilon)) * weight[e] + bias[e])
///
/// x       [M, D]
/// weight  [D], or null: 1
/// bias    [D], or null: 0
/// out     [M, D] bits of bfloat16, overwritten
///
/// Element e goes to sum e % 64; then 32 sums are added to the other 32, 16 to 16, and so on. Every
/// step is rounded on its own: the same bits on every instruction set. A row depends on itself
/// alone.
///
/// Cost: x read once from memory; 10 operations an element.
void layer_norm(MatrixView<const float> x, const float* weight, const float* bias, float epsilon,
                MatrixView<std::uint16_t> out, Isa isa, int threads);

}  // namespace pyneurons
