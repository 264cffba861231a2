#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"
#include "pyneurons/panels.hpp"
#include "pyneurons/strip_mask.hpp"

namespace pyneurons {

/// One feed-forward block in bfloat16, sums in f32: who fires, the maxima, and what it adds.
///
///   z = x fc1 + fc1_bias;   bit f of mask row n = z[n][f] > 0;   z_max[f] = max(z_max[f], z[n][f])
///   residual[n] += bfloat16(relu(z[n])) fc2 + fc2_bias
///
/// x         [M, D] bits of bfloat16
/// fc1       D terms, F columns
/// fc1_bias  [F] bits of bfloat16, or null
/// fc2       F terms, D_out columns; data may be null: the residual is left alone
/// fc2_bias  [D_out] bits of bfloat16, or null
/// residual  [M, D_out], accumulated into
/// mask      rows 0 to M - 1 overwritten, bits past F with zeros
/// z_max     [F], accumulated into
///
/// The order of every sum is fixed, so that a row depends on itself alone, and it is that of AMX's
/// TDPBF16PS (see attention.hpp) on every instruction set but avx512bf16, whose VDPBF16PS adds the
/// second product of each pair and then the first, all pairs in one chain. Biases are added to the
/// finished sums. Denormals are 0.
///
/// fc2 reads only pairs of neurons of which one fires, where few do, and by tiles no 32 neurons
/// that are silent on 32 rows: exact, since the others add 0.
///
/// Returns row * F + neuron of the first pre-activation that is NaN or infinite, or -1; the rows
/// behind it are then unfinished.
/// Cost: 2 M D F operations, and for fc2 2 M F D_out times the share of live pairs.
std::int64_t ffn(MatrixView<const std::uint16_t> x, Panels fc1, const std::uint16_t* fc1_bias,
                 Panels fc2, const std::uint16_t* fc2_bias, MatrixView<float> residual,
                 StripMask mask, float* z_max, Isa isa, int threads);

}  // namespace pyneurons
