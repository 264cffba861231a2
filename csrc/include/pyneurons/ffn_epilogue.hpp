#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"
#include "pyneurons/strip_mask.hpp"

namespace pyneurons {

/// One pass over pre-activations in f32: who fires, the running maximum, ReLU in place.
///
///   bit f of mask row n = z[n][f] > 0      (NaN, +0 and -0 do not fire)
///   z_max[f] = max(z_max[f], max_n z[n][f])      (a NaN is no maximum)
///   z[n][f] = z[n][f] > 0 ? z[n][f] : 0
///
/// z      [M, F], overwritten
/// mask   rows 0 to M - 1 overwritten, bits past F with zeros
/// z_max  [F] f32, accumulated into
///
/// Returns row * F + neuron of the first NaN or infinity in row-major order, or -1.
/// Cost: z read and written once, F / 8 bytes written per row.
std::int64_t ffn_epilogue(MatrixView<float> z, StripMask mask, float* z_max, Isa isa, int threads);

}  // namespace pyneurons
