#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"
#include "pyneurons/panels.hpp"

namespace pyneurons {

/// A linear map in bfloat16, sums in f32.
///
///   out[n] = bfloat16(x[n] weight + bias)
///
/// x       [M, K] bits of bfloat16
/// weight  K terms, N columns
/// bias    [N] bits of bfloat16, or null
/// out     [M, N] bits of bfloat16, overwritten
///
/// The order of every sum is fixed: that of `ffn` (see ffn.hpp). The bias is added to the finished
/// sum. A row depends on itself alone. Denormals are 0.
///
/// Cost: 2 M K N operations.
void linear(MatrixView<const std::uint16_t> x, Panels weight, const std::uint16_t* bias,
            MatrixView<std::uint16_t> out, Isa isa, int threads);

/// The same, added to a residual stream instead of rounded.
///
///   residual[n] += x[n] weight + bias
///
/// residual  [M, N]
void linear(MatrixView<const std::uint16_t> x, Panels weight, const std::uint16_t* bias,
            MatrixView<float> residual, Isa isa, int threads);

/// A matrix of f32 as a sum of matrices of bfloat16, each laid out as panels of the same shape.
struct SplitPanels {
  static constexpr int most = 3;
  int parts;  // 1 to `most`; the largest part first, each the rounding of what those before leave
  Panels part[most];
};

/// A linear map in f32, by products of bfloat16.
///
///   out[n] = x[n] weight + bias
///
/// x       [M, K]
/// weight  K terms, N columns
/// bias    [N], or null
/// out     [M, N], overwritten
///
/// x = x1 + x2 + x3, each the leading 8 bits of what is left, so that nothing is lost and nothing
/// overflows. With w = w1 + w2 + w3 these products are added, those left out being 2^-24 of x w
/// or less:
///
///   x3 w1, x2 w1, x2 w2, x1 w2, x1 w3, x1 w1   (without the parts that a weight does not have)
///
/// 256 terms at a time, all products but the last first: for each 32 terms they are added in that
/// order, and x1 w1 follows for all 256. The sums of 256 terms are added one after the other in
/// f32, then the bias. So small terms meet small sums. A sum of 32 products is AMX's (see
/// attention.hpp) on every instruction set, avx512bf16 included.
///
/// A row depends on itself alone. Denormals are 0, parts of x and of the weight included: an
/// element loses less than 2^-126 by that.
///
/// Cost: 10 M K N operations for a weight of two parts, 6 for one, 12 for three.
void linear_split(MatrixView<const float> x, const SplitPanels& weight, const float* bias,
                  MatrixView<float> out, Isa isa, int threads);

}  // namespace pyneurons
