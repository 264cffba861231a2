#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "arrays.hpp"
#include "pyneurons/counting_table.hpp"
#include "pyneurons/cuda_ops.hpp"
#include "pyneurons/dispatch.hpp"

namespace py = pybind11;

namespace {

using namespace pyneurons;

/// An array on the device: address, rows, columns, elements from row to row. A vector has one row.
using Device = std::tuple<std::uintptr_t, std::int64_t, std::int64_t, std::int64_t>;

template <typename T>
MatrixView<T> matrix(const char* op, const char* name, const Device& array) {
  const auto [address, rows, cols, row_stride] = array;
  if (rows < 0 || cols < 0 || (rows > 1 && row_stride < cols)) {
    arrays::refuse(arrays::where(op, name), "has rows that overlap or run backwards");
  }
  if (address % alignof(T) != 0 || (address == 0 && rows > 0 && cols > 0)) {
    arrays::refuse(arrays::where(op, name), "is not aligned to its elements, or nowhere");
  }
  return {reinterpret_cast<T*>(address), rows, cols, row_stride};
}

template <typename T>
T* vector(const char* op, const char* name, const Device& array, std::int64_t length) {
  const auto view = matrix<T>(op, name, array);
  if (view.rows != 1 || view.cols != length) {
    arrays::refuse(arrays::where(op, name),
                   "has " + std::to_string(view.rows) + " rows of " + std::to_string(view.cols) +
                       " elements, expected one of " + std::to_string(length));
  }
  return view.data;
}

const std::int32_t* order_of(const char* op, const std::optional<Device>& order) {
  return order ? matrix<const std::int32_t>(op, "order", *order).data : nullptr;
}

/// Bounds on the device and the same on the host, checked on the host.
cuda::SegmentBounds bounds(const char* op, const Device& device, const py::array& host,
                           std::int64_t rows) {
  if (host.ndim() != 1 || host.shape(0) < 1) {
    arrays::refuse(arrays::where(op, "segments"),
                   "has shape " + arrays::shape_of(host) + ", expected one element or more");
  }
  const std::int64_t number = host.shape(0) - 1;
  const auto* segments = arrays::vector<const std::int64_t>(op, "segments", host, number + 1);
  std::int64_t before = 0;
  for (std::int64_t s = 0; s <= number; ++s) {
    if (segments[s] < before || segments[s] > rows) {
      arrays::refuse(arrays::where(op, "segments"), "is wrong at " + std::to_string(s) +
                                                        ": bounds must not decrease nor pass " +
                                                        std::to_string(rows));
    }
    before = segments[s];
  }
  return {vector<const std::int64_t>(op, "segments", device, number + 1), segments, number};
}

std::int64_t order_length(const std::optional<Device>& order, std::int64_t mask_rows) {
  return order ? std::get<2>(*order) : mask_rows;
}

void check_neurons(const char* op, const MatrixView<const std::uint32_t>& mask,
                   std::int64_t neurons) {
  if (neurons > 32 * mask.cols) {
    arrays::refuse(arrays::where(op, "mask"), "has rows of " + std::to_string(mask.cols) +
                                                  " words, too few for " + std::to_string(neurons) +
                                                  " neurons");
  }
}

template <typename Count>
void count(const Device& mask_, const std::optional<Device>& order, const Device& segments_,
           const py::array& segments_host, const Device& counts_, std::uintptr_t stream) {
  constexpr const char* op = "segment_counts";
  const auto mask = matrix<const std::uint32_t>(op, "mask", mask_);
  const auto counts = matrix<Count>(op, "counts", counts_);
  const auto segments = bounds(op, segments_, segments_host, order_length(order, mask.rows));
  if (segments.number != counts.rows) {
    arrays::refuse(arrays::where(op, "counts"), "does not have one row per segment");
  }
  check_neurons(op, mask, counts.cols);
  const py::gil_scoped_release release;
  cuda::segment_counts(mask, order_of(op, order), segments, counts,
                       reinterpret_cast<void*>(stream));
}

using Wrong = std::optional<std::pair<std::int64_t, std::int64_t>>;

/// None, or (neuron, remainder) of the first neuron whose fires do not add up.
Wrong coverage(const Device& mask_, const std::optional<Device>& order, const Device& segments_,
               const py::array& segments_host, const Device& fires_, const Device& histogram_,
               const Device& large_, std::uintptr_t stream) {
  constexpr const char* op = "ngram_coverage";
  const auto mask = matrix<const std::uint32_t>(op, "mask", mask_);
  const auto histogram = matrix<std::int64_t>(op, "histogram", histogram_);
  const auto large = matrix<std::int64_t>(op, "large", large_);
  const auto segments = bounds(op, segments_, segments_host, order_length(order, mask.rows));
  const auto* fires = vector<const std::int64_t>(op, "fires", fires_, histogram.cols);
  check_neurons(op, mask, histogram.cols);
  if (histogram.rows < 2 || large.cols != histogram.cols) {
    arrays::refuse(arrays::where(op, "histogram"), "has too few rows, or not the columns of large");
  }
  std::int64_t n_large = 0;
  for (std::int64_t s = 0; s < segments.number; ++s) {
    if (s > 0 && segments.length(s) < segments.length(s - 1)) {
      arrays::refuse(arrays::where(op, "segments"), "is not sorted by length");
    }
    n_large += segments.length(s) >= histogram.rows ? 1 : 0;
  }
  if (large.rows != n_large) {
    arrays::refuse(arrays::where(op, "large"), "does not have one row per segment past the bins");
  }
  const py::gil_scoped_release release;
  try {
    cuda::ngram_coverage(mask, order_of(op, order), segments, fires, histogram, large,
                         reinterpret_cast<void*>(stream));
  } catch (const Contradiction& contradiction) {
    return std::pair{contradiction.neuron, contradiction.found};
  }
  return std::nullopt;
}

/// None, or (neuron, number found) of the first neuron whose list does not fill its place.
Wrong triggers(const Device& mask_, const std::optional<Device>& order, const Device& segments_,
               const py::array& segments_host, const Device& threshold_, const Device& offsets_,
               const Device& segment_of_, const Device& fires_, std::uintptr_t stream) {
  constexpr const char* op = "ngram_triggers";
  const auto mask = matrix<const std::uint32_t>(op, "mask", mask_);
  const std::int64_t neurons = std::get<2>(threshold_);
  const std::int64_t entries = std::get<2>(segment_of_);
  const auto segments = bounds(op, segments_, segments_host, order_length(order, mask.rows));
  const auto* threshold = vector<const std::int64_t>(op, "threshold", threshold_, neurons);
  const auto* offsets = vector<const std::int64_t>(op, "offsets", offsets_, neurons + 1);
  auto* segment_of = vector<std::int32_t>(op, "segment_of", segment_of_, entries);
  auto* fires = vector<std::int64_t>(op, "fires", fires_, entries);
  check_neurons(op, mask, neurons);
  const py::gil_scoped_release release;
  try {
    cuda::ngram_triggers(mask, order_of(op, order), segments, neurons, threshold, offsets, entries,
                         segment_of, fires, reinterpret_cast<void*>(stream));
  } catch (const Contradiction& contradiction) {
    return std::pair{contradiction.neuron, contradiction.found};
  }
  return std::nullopt;
}

/// Adds keys and counts of one length.
void add(cuda::PairCounts& table, const Device& keys_, const Device& counts_) {
  constexpr const char* op = "counting_table";
  const std::int64_t number = std::get<2>(keys_);
  const auto* keys = vector<const std::uint64_t>(op, "keys", keys_, number);
  const auto* counts = vector<const std::uint64_t>(op, "counts", counts_, number);
  const py::gil_scoped_release release;
  table.add(keys, counts, number);
}

/// Adds lists of ngram_triggers; who calls has seen to it that the values are those of lists.
void add_lists(cuda::PairCounts& table, const Device& offsets_, const Device& segment_of_,
               const Device& fires_, const Device& ngram_of_) {
  constexpr const char* op = "counting_table";
  const std::int64_t neurons = std::get<2>(offsets_) - 1;
  const std::int64_t entries = std::get<2>(segment_of_);
  const auto* offsets = vector<const std::int64_t>(op, "offsets", offsets_, neurons + 1);
  const auto* segment_of = vector<const std::int32_t>(op, "segment_of", segment_of_, entries);
  const auto* fires = vector<const std::int64_t>(op, "fires", fires_, entries);
  const auto* ngram_of =
      vector<const std::uint64_t>(op, "ngram_of", ngram_of_, std::get<2>(ngram_of_));
  if (neurons < 0) {
    arrays::refuse(arrays::where(op, "offsets"), "is empty, expected one element or more");
  }
  const py::gil_scoped_release release;
  table.add_lists(offsets, neurons, entries, segment_of, fires, ngram_of);
}

void sorted(const cuda::PairCounts& table, const Device& keys_, const Device& counts_) {
  constexpr const char* op = "counting_table";
  const std::int64_t number = std::get<2>(keys_);
  auto* keys = vector<std::uint64_t>(op, "keys", keys_, number);
  auto* counts = vector<std::uint64_t>(op, "counts", counts_, number);
  const py::gil_scoped_release release;
  table.sorted(keys, counts, number);
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "Counting on CUDA devices: addresses of device memory in, nothing copied.";
  m.def("devices", [] {
    const char* reason = "";
    const int number = cuda::devices(&reason);
    return std::pair{number, std::string(reason)};
  });
  m.def("segment_counts", &count<std::int64_t>);
  m.def("segment_counts_u32", &count<std::uint32_t>);
  m.def("ngram_coverage", &coverage);
  m.def("ngram_triggers", &triggers);

  py::register_exception<cuda::TableFull>(m, "TableFull");
  py::register_exception<cuda::LostCounts>(m, "LostCounts");
  py::class_<cuda::PairCounts>(m, "PairCounts")
      .def(py::init([](std::uint64_t capacity, std::uint64_t most_slots, std::uint64_t most_probes,
                       std::uintptr_t stream) {
        return std::make_unique<cuda::PairCounts>(capacity, most_slots, most_probes,
                                                  reinterpret_cast<void*>(stream));
      }))
      .def_property_readonly("capacity", &cuda::PairCounts::capacity)
      .def("add", &add)
      .def("add_lists", &add_lists)
      .def("sort", &cuda::PairCounts::sort, py::call_guard<py::gil_scoped_release>())
      .def("sorted", &sorted);
}
