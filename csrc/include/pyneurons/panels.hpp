#pragma once

#include <cstdint>

namespace pyneurons {

/// A matrix [terms, columns] of bfloat16 laid out for products: what stands on their right.
///
/// [panels][padded terms / 2][32][2]: panels of 32 columns, in them pairs of terms side by side, as
/// matrix engines and VDPBF16PS read them; zeros behind the last column and the last term.
struct Panels {
  static constexpr std::int64_t width = 32;  // columns of a panel
  static constexpr std::int64_t chunk = 32;  // terms of one step of a sum
  const std::uint16_t* data;                 // or null: no matrix
  std::int64_t columns;
  std::int64_t terms;
  std::int64_t panels;  // ceil(columns / 32)
  std::int64_t chunks;  // ceil(terms / 32)
  std::int64_t size;    // elements of one panel
};

/// The view of so many columns and terms that are laid out at `data`.
Panels panels_of(const std::uint16_t* data, std::int64_t columns, std::int64_t terms);

}  // namespace pyneurons
