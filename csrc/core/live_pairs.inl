// Products of a row that is mostly 0: only its pairs of terms that are not, in the order of AMX.

#pragma once

#include <cstdint>

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// c[0 .. vectors * float_lanes) += the live pairs of a row times the columns from `right` on.
///
/// 32 terms at a time, the even ones in one chain and the odd ones in another; a term that is 0
/// adds nothing, so that leaving it out changes no bit. `panel_size` leads to the next panel, and
/// `c_panel` to the next 32 columns of c.
template <int vectors>
inline void add_live(const LivePair* live, const LivePair* end, const std::uint16_t* right,
                     std::int64_t panel_size, float* c, std::int64_t c_panel) {
  constexpr std::int64_t width = Panels::width;
  constexpr unsigned pairs_of_chunk = Panels::chunk / 2;
  Floats sum[vectors];
  for (int v = 0; v < vectors; ++v) {
    sum[v] = load(c + v * float_lanes / width * c_panel + v * float_lanes % width);
  }
  while (live != end) {
    const unsigned chunk = live->pair / pairs_of_chunk;
    Floats even[vectors];
    Floats odd[vectors];
    for (int v = 0; v < vectors; ++v) {
      even[v] = odd[v] = broadcast(0.0F);
    }
    do {
      const Floats left_even = broadcast(from_bfloat16(live->values & 0xFFFFu));
      const Floats left_odd = broadcast(from_bfloat16(live->values >> 16));
      const std::uint16_t* place = right + 2 * width * live->pair;
      for (int v = 0; v < vectors; ++v) {
        const std::int64_t column = v * float_lanes;
        Floats first;
        Floats second;
        load_pairs(place + column / width * panel_size + 2 * (column % width), first, second);
        even[v] = fused(left_even, first, even[v]);
        odd[v] = fused(left_odd, second, odd[v]);
      }
      ++live;
    } while (live != end && live->pair / pairs_of_chunk == chunk);
    for (int v = 0; v < vectors; ++v) {
      sum[v] = add(sum[v], add(even[v], odd[v]));
    }
  }
  for (int v = 0; v < vectors; ++v) {
    store(c + v * float_lanes / width * c_panel + v * float_lanes % width, sum[v]);
  }
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
