#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/matrix_view.hpp"

namespace pyneurons {

/// Causal self-attention of whole sequences, bfloat16 in and out, sums in f32.
///
///   out[i] = sum_j<=i softmax_j(scale * q[i] . k[j]) v[j]      within each sequence and head
///
/// qkv     [M, 3 D] bits of bfloat16: q, k, v, each of `heads` heads side by side
/// starts  [sequences + 1] bounds of the sequences, from 0 to M
/// out     [M, D] bits of bfloat16, overwritten
///
/// The order of every sum is fixed and that of a matrix engine which multiplies pairs (AMX's
/// TDPBF16PS): 32 terms at a time, one chain over the 16 even ones, one over the 16 odd ones, their
/// sum added to what was there; avx512bf16 alone has that of VDPBF16PS (see ffn.hpp). Keys go in
/// blocks of 128 from the start of the sequence, with a maximum that grows only where weights get
/// large; exponentials by fused multiply-adds, relative error 9e-5. Denormals are 0. So a row
/// depends on its own sequence alone, and all instruction sets but that one give the same bits.
///
/// Cost: 2 T^2 D operations for a sequence of length T; 4 T bytes of scratch per head element.
void attention(MatrixView<const std::uint16_t> qkv, const std::int64_t* starts,
               std::int64_t sequences, std::int64_t heads, MatrixView<std::uint16_t> out, Isa isa,
               int threads);

}  // namespace pyneurons
