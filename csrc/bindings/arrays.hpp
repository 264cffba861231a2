#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

#include "pyneurons/matrix_view.hpp"
#include "pyneurons/strip_mask.hpp"

/// Checked views of NumPy arrays: nothing is copied, nothing converted.
///
/// `pyneurons.ops` has checked the same before, with the errors of the house; here it is about
/// memory safety. `const` in the element type asks for no more than reading.
namespace pyneurons::arrays {

namespace py = pybind11;

inline std::string shape_of(const py::array& array) {
  std::string text = "[";
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
    if (axis > 0) {
      text += ", ";
    }
    text += std::to_string(array.shape(axis));
  }
  text += "]";
  return text;
}

[[noreturn]] inline void refuse(const std::string& where, const std::string& what) {
  throw py::value_error(where + " " + what);
}

/// "op: name", the beginning of every message.
inline std::string where(const char* op, const char* name) {
  return std::string(op) + ": " + name;
}

template <typename T>
void check(const std::string& place, const py::array& array, py::ssize_t axes) {
  using Element = std::remove_const_t<T>;
  if (!py::isinstance<py::array_t<Element>>(array)) {
    throw py::type_error(place + " has dtype " + py::str(array.dtype()).cast<std::string>() +
                         ", expected " +
                         py::str(py::dtype::of<Element>()).template cast<std::string>());
  }
  if (array.ndim() != axes) {
    refuse(place, "has shape " + shape_of(array) + ", expected " + std::to_string(axes) + " axes");
  }
  if constexpr (!std::is_const_v<T>) {
    if (!array.writeable()) {
      refuse(place, "is read-only, expected an array to write to");
    }
  }
  if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(Element) != 0) {
    refuse(place, "is not aligned to its elements");
  }
  const py::ssize_t last = axes - 1;
  const py::ssize_t size = static_cast<py::ssize_t>(sizeof(Element));
  if (array.size() > 0 && array.shape(last) > 1 && array.strides(last) != size) {
    refuse(place, "has no unit stride along its last axis");
  }
  for (py::ssize_t axis = 0; axis < last && array.size() > 0; ++axis) {
    if (array.shape(axis) > 1 &&
        (array.strides(axis) < array.shape(last) * size || array.strides(axis) % size != 0)) {
      refuse(place, "has rows that overlap, run backwards or are not aligned");
    }
  }
}

template <typename T>
T* data_of(const py::array& array) {
  if constexpr (std::is_const_v<T>) {
    return static_cast<T*>(array.data());
  } else {
    return static_cast<T*>(const_cast<void*>(array.data()));
  }
}

template <typename T>
std::int64_t stride_of(const py::array& array, py::ssize_t axis) {
  return array.strides(axis) / static_cast<py::ssize_t>(sizeof(T));
}

template <typename T>
MatrixView<T> matrix(const char* op, const char* name, const py::array& array) {
  check<T>(where(op, name), array, 2);
  return {data_of<T>(array), array.shape(0), array.shape(1), stride_of<T>(array, 0)};
}

/// A vector of a known length.
template <typename T>
T* vector(const char* op, const char* name, const py::array& array, std::int64_t length) {
  check<T>(where(op, name), array, 1);
  if (array.shape(0) != length) {
    refuse(where(op, name),
           "has shape " + shape_of(array) + ", expected [" + std::to_string(length) + "]");
  }
  return data_of<T>(array);
}

struct Order {
  const std::int32_t* data;
  std::int64_t length;
};

/// Rows to visit: an array of int32, or None for all of the mask's rows.
inline Order order(const char* op, const std::optional<py::array>& array, std::int64_t mask_rows) {
  if (!array) {
    return {nullptr, mask_rows};
  }
  return {vector<const std::int32_t>(op, "order", *array, array->size()), array->size()};
}

/// A mask [strips, M, strip_words] that holds `neurons` neurons of M rows.
inline StripMask strip_mask(const char* op, const py::array& array, std::int64_t rows,
                            std::int64_t neurons) {
  check<std::uint32_t>(where(op, "mask"), array, 3);
  const std::int64_t strips = array.shape(0);
  const std::int64_t strip_words = array.shape(2);
  if (array.shape(1) != rows || 32 * strips * strip_words < neurons) {
    refuse(where(op, "mask"), "has shape " + shape_of(array) + ", too small for " +
                                  std::to_string(rows) + " rows of " + std::to_string(neurons) +
                                  " neurons");
  }
  return {data_of<std::uint32_t>(array), strips, strip_words, stride_of<std::uint32_t>(array, 0),
          stride_of<std::uint32_t>(array, 1)};
}

}  // namespace pyneurons::arrays
