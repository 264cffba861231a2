#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// A strip-major mask to write: word w of row n lies at
/// data[(w / strip_words) * strip_stride + n * row_stride + w % strip_words].
struct StripMask {
  std::uint32_t* data;
  std::int64_t strips;
  std::int64_t strip_words;
  std::int64_t strip_stride;
  std::int64_t row_stride;
};

/// One pass over pre-activations: who fires, the running maximum, ReLU in place.
///
///   bit f of mask row n = z[n][f] > 0      (NaN, +0 and -0 do not fire)
///   z_max[f] = max(z_max[f], max_n z[n][f])      (a NaN is no maximum)
///   z[n][f] = z[n][f] > 0 ? z[n][f] : 0
///
/// z      [M, F] f32, or the bits of bfloat16, overwritten
/// mask   rows 0 to M - 1 overwritten, bits past F with zeros
/// z_max  [F] f32, accumulated into
///
/// Returns row * F + neuron of the first NaN or infinity in row-major order, or -1.
/// bfloat16: fires iff 0 < bits <= 0x7F80 as a signed integer.
/// Cost: z read and written once, F / 8 bytes written per row.
std::int64_t ffn_epilogue(MatrixView<float> z, StripMask mask, float* z_max, Isa isa, int threads);
std::int64_t ffn_epilogue(MatrixView<std::uint16_t> z, StripMask mask, float* z_max, Isa isa,
                          int threads);

}  // namespace pyneurons
