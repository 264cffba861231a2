#pragma once

#include <cstdint>

namespace pyneurons {

/// A matrix that somebody else owns: unit stride along a row, rows `row_stride` elements apart.
///
/// An aggregate without member functions on purpose: it is used in files that are compiled for one
/// instruction set, and an inline function of this namespace compiled there could be linked into
/// code that has to run everywhere.
template <typename T>
struct MatrixView {
  T* data;
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t row_stride;
};

}  // namespace pyneurons
