#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "arrays.hpp"
#include "pyneurons/attention.hpp"
#include "pyneurons/cpu_features.hpp"
#include "pyneurons/dispatch.hpp"
#include "pyneurons/ffn.hpp"
#include "pyneurons/ffn_epilogue.hpp"
#include "pyneurons/firing_rows.hpp"
#include "pyneurons/first_segments.hpp"
#include "pyneurons/histogram_entries.hpp"
#include "pyneurons/layer_norm.hpp"
#include "pyneurons/linear.hpp"
#include "pyneurons/ngram_coverage.hpp"
#include "pyneurons/ngram_keys.hpp"
#include "pyneurons/ngram_triggers.hpp"
#include "pyneurons/panels.hpp"
#include "pyneurons/score_candidates.hpp"
#include "pyneurons/segment_counts.hpp"
#include "pyneurons/trigger_baselines.hpp"

namespace py = pybind11;

namespace {

using namespace pyneurons;

/// An instruction set by its name; unknown and unsupported names raise.
Isa isa_of(const std::string& name) {
  const std::optional<Isa> isa = isa_from_name(name);
  if (!isa) {
    throw py::value_error("instruction set '" + name + "' does not exist");
  }
  if (!compiled(*isa)) {
    throw py::value_error("instruction set '" + name + "' is not compiled in");
  }
  if (!cpu_supports(*isa)) {
    throw py::value_error("this processor or operating system does not run '" + name + "'");
  }
  return *isa;
}

int threads_of(int threads) {
  if (threads < 1) {
    throw py::value_error("threads is " + std::to_string(threads) + ", expected 1 or more");
  }
  return threads;
}

/// That a mask row has bits for so many neurons.
void check_neurons(const char* op, const MatrixView<const std::uint32_t>& mask,
                   std::int64_t neurons) {
  if (neurons > 32 * mask.cols) {
    arrays::refuse(arrays::where(op, "mask"), "has rows of " + std::to_string(mask.cols) +
                                                  " words, too few for " + std::to_string(neurons) +
                                                  " neurons");
  }
}

/// Bounds of segments: not decreasing, within the rows there are.
void check_segments(const char* op, const std::int64_t* segments, std::int64_t n_segments,
                    std::int64_t rows) {
  // Without a branch first, several at a time: there may be as many segments as rows.
  std::int64_t wrong = segments[0] < 0 || segments[n_segments] > rows ? 1 : 0;
  for (std::int64_t s = 0; s < n_segments; ++s) {
    wrong |= segments[s + 1] < segments[s] ? 1 : 0;
  }
  if (wrong == 0) {
    return;
  }
  std::int64_t before = 0;
  for (std::int64_t s = 0; s <= n_segments; ++s) {
    if (segments[s] < before || segments[s] > rows) {
      arrays::refuse(arrays::where(op, "segments"), "is wrong at " + std::to_string(s) +
                                                        ": bounds must not decrease nor pass " +
                                                        std::to_string(rows));
    }
    before = segments[s];
  }
}

std::int64_t pieces(const char* op, const char* name, const py::array& bounds) {
  if (bounds.ndim() != 1 || bounds.shape(0) < 1) {
    arrays::refuse(arrays::where(op, name),
                   "has shape " + arrays::shape_of(bounds) + ", expected one element or more");
  }
  return bounds.shape(0) - 1;
}

Counters counters(const char* op, const char* name, const py::array& array) {
  const auto narrow = [&](auto zero) -> std::optional<Counters> {
    using Count = decltype(zero);
    if (!py::isinstance<py::array_t<Count>>(array)) {
      return std::nullopt;
    }
    const auto view = arrays::matrix<Count>(op, name, array);
    return Counters(view.data, view.rows, view.cols, view.row_stride, sizeof(Count));
  };
  if (const auto found = narrow(std::uint8_t{})) {
    return *found;
  }
  if (const auto found = narrow(std::uint16_t{})) {
    return *found;
  }
  if (const auto found = narrow(std::uint32_t{})) {
    return *found;
  }
  return arrays::matrix<std::int64_t>(op, name, array);
}

void py_segment_counts(const py::array& mask_, const std::optional<py::array>& order_,
                       const py::array& segments_, const py::array& counts_,
                       const std::string& isa_, int threads) {
  constexpr const char* op = "segment_counts";
  const auto mask = arrays::matrix<const std::uint32_t>(op, "mask", mask_);
  const auto order = arrays::order(op, order_, mask.rows);
  const Counters counts = counters(op, "counts", counts_);
  const auto* segments =
      arrays::vector<const std::int64_t>(op, "segments", segments_, counts.rows + 1);
  check_segments(op, segments, counts.rows, order.length);
  check_neurons(op, mask, counts.cols);
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  const py::gil_scoped_release release;
  segment_counts(mask, order.data, order.length, segments, counts, isa, threads);
}

void py_firing_rows(const py::array& mask_, const std::optional<py::array>& order_,
                    const py::array& rows_, const py::array& found_, const std::string& isa_,
                    int threads) {
  constexpr const char* op = "firing_rows";
  const auto mask = arrays::matrix<const std::uint32_t>(op, "mask", mask_);
  const auto order = arrays::order(op, order_, mask.rows);
  const auto rows = arrays::matrix<std::int64_t>(op, "rows", rows_);
  auto* found = arrays::vector<std::int64_t>(op, "found", found_, rows.rows);
  check_neurons(op, mask, rows.rows);
  for (std::int64_t f = 0; f < rows.rows; ++f) {
    if (found[f] < 0 || found[f] > rows.cols) {
      arrays::refuse(arrays::where(op, "found"), "is out of range at " + std::to_string(f));
    }
  }
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  const py::gil_scoped_release release;
  firing_rows(mask, order.data, order.length, rows, found, isa, threads);
}

void py_first_segments(const py::array& mask_, const std::optional<py::array>& order_,
                       const py::array& segments_, const py::array& count_,
                       const py::array& found_segments_, const py::array& found_,
                       const std::string& isa_, int threads) {
  constexpr const char* op = "first_segments";
  const auto mask = arrays::matrix<const std::uint32_t>(op, "mask", mask_);
  const auto order = arrays::order(op, order_, mask.rows);
  const std::int64_t n_segments = pieces(op, "segments", segments_);
  const auto* segments =
      arrays::vector<const std::int64_t>(op, "segments", segments_, n_segments + 1);
  const auto found_segments = arrays::matrix<std::int32_t>(op, "found_segments", found_segments_);
  const auto* count = arrays::vector<const std::int64_t>(op, "count", count_, found_segments.rows);
  auto* found = arrays::vector<std::int64_t>(op, "found", found_, found_segments.rows);
  check_segments(op, segments, n_segments, order.length);
  check_neurons(op, mask, found_segments.rows);
  if (n_segments > INT32_MAX) {
    arrays::refuse(arrays::where(op, "segments"), "are more than int32 can name");
  }
  for (std::int64_t f = 0; f < found_segments.rows; ++f) {
    if (found[f] < 0 || found[f] > found_segments.cols || count[f] < 1) {
      arrays::refuse(arrays::where(op, "found, count"), "is out of range at " + std::to_string(f));
    }
  }
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  const py::gil_scoped_release release;
  first_segments(mask, order.data, order.length, segments, n_segments, count, found_segments, found,
                 isa, threads);
}

template <typename Id>
void keys_of(const py::array& ids_, const py::array& starts_, int n, int bits,
             std::uint32_t boundary_id, const py::array& keys_, Isa isa, int threads) {
  constexpr const char* op = "ngram_keys";
  const std::int64_t rows = ids_.size();
  const std::int64_t sequences = pieces(op, "starts", starts_);
  const auto* ids = arrays::vector<const Id>(op, "ids", ids_, rows);
  const auto* starts = arrays::vector<const std::int64_t>(op, "starts", starts_, sequences + 1);
  auto* keys = arrays::vector<std::uint64_t>(op, "keys", keys_, rows);
  check_segments(op, starts, sequences, rows);
  if (starts[0] != 0 || starts[sequences] != rows) {
    arrays::refuse(arrays::where(op, "starts"), "does not cover the ids");
  }
  const py::gil_scoped_release release;
  ngram_keys(ids, rows, starts, sequences, n, bits, boundary_id, keys, isa, threads);
}

void py_ngram_keys(const py::array& ids, const py::array& starts, int n, int bits,
                   std::uint32_t boundary_id, const py::array& keys, const std::string& isa_,
                   int threads) {
  if (n < 1 || bits < 1 || bits > 32) {
    arrays::refuse("ngram_keys: n, bits", "are out of range");
  }
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  if (py::isinstance<py::array_t<std::uint16_t>>(ids)) {
    keys_of<std::uint16_t>(ids, starts, n, bits, boundary_id, keys, isa, threads);
  } else {
    keys_of<std::uint32_t>(ids, starts, n, bits, boundary_id, keys, isa, threads);
  }
}

py::tuple py_histogram_entries(const py::array& histogram_, const py::array& large_, int threads) {
  constexpr const char* op = "histogram_entries";
  const auto histogram = arrays::matrix<const std::int64_t>(op, "histogram", histogram_);
  const auto large = arrays::matrix<const std::int64_t>(op, "large", large_);
  if (histogram.rows < 1 || large.cols != histogram.cols) {
    arrays::refuse(arrays::where(op, "large"), "has shape " + arrays::shape_of(large_) +
                                                   ", expected as many columns as " +
                                                   arrays::shape_of(histogram_));
  }
  threads_of(threads);
  HistogramEntries found;
  {
    const py::gil_scoped_release release;
    found = histogram_entries(histogram, large, threads);
  }
  const auto array = [](const std::vector<std::int64_t>& values) {
    return py::array_t<std::int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
  };
  return py::make_tuple(array(found.offsets), array(found.count), array(found.number));
}

/// Returns None, or (neuron, remainder) of the first neuron whose fires do not add up.
std::optional<std::pair<std::int64_t, std::int64_t>> py_ngram_coverage(
    const py::array& mask_, const std::optional<py::array>& order_, const py::array& segments_,
    const py::array& fires_, const py::array& histogram_, const py::array& large_,
    const std::string& isa_, int threads) {
  constexpr const char* op = "ngram_coverage";
  const auto mask = arrays::matrix<const std::uint32_t>(op, "mask", mask_);
  const auto order = arrays::order(op, order_, mask.rows);
  const std::int64_t n_segments = pieces(op, "segments", segments_);
  const auto* segments =
      arrays::vector<const std::int64_t>(op, "segments", segments_, n_segments + 1);
  const auto histogram = arrays::matrix<std::int64_t>(op, "histogram", histogram_);
  const auto large = arrays::matrix<std::int64_t>(op, "large", large_);
  const auto* fires = arrays::vector<const std::int64_t>(op, "fires", fires_, histogram.cols);
  check_segments(op, segments, n_segments, order.length);
  check_neurons(op, mask, histogram.cols);
  std::int64_t longer = 0;
  for (std::int64_t g = 0; g < n_segments; ++g) {
    const std::int64_t length = segments[g + 1] - segments[g];
    longer += length >= histogram.rows ? 1 : 0;
    if (g > 0 && length < segments[g] - segments[g - 1]) {
      arrays::refuse(arrays::where(op, "segments"), "is not sorted by length");
    }
  }
  if (histogram.rows < 2 || large.rows != longer || large.cols != histogram.cols) {
    arrays::refuse(arrays::where(op, "large"), "has shape " + arrays::shape_of(large_) +
                                                   ", expected [" + std::to_string(longer) + ", " +
                                                   std::to_string(histogram.cols) + "]");
  }
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  const py::gil_scoped_release release;
  try {
    ngram_coverage(mask, order.data, order.length, segments, n_segments, fires, histogram, large,
                   isa, threads);
  } catch (const Contradiction& contradiction) {
    return std::pair{contradiction.neuron, contradiction.found};
  }
  return std::nullopt;
}

/// Returns None, or (neuron, number found) of the first neuron whose list does not fill its place.
std::optional<std::pair<std::int64_t, std::int64_t>> py_ngram_triggers(
    const py::array& mask_, const std::optional<py::array>& order_, const py::array& segments_,
    const py::array& threshold_, const py::array& offsets_, const py::array& segment_of_,
    const py::array& fires_, const std::string& isa_, int threads) {
  constexpr const char* op = "ngram_triggers";
  const auto mask = arrays::matrix<const std::uint32_t>(op, "mask", mask_);
  const auto order = arrays::order(op, order_, mask.rows);
  const std::int64_t n_segments = pieces(op, "segments", segments_);
  const std::int64_t neurons = pieces(op, "offsets", offsets_);
  const auto* segments =
      arrays::vector<const std::int64_t>(op, "segments", segments_, n_segments + 1);
  const auto* threshold = arrays::vector<const std::int64_t>(op, "threshold", threshold_, neurons);
  const auto* offsets = arrays::vector<const std::int64_t>(op, "offsets", offsets_, neurons + 1);
  check_segments(op, segments, n_segments, order.length);
  check_neurons(op, mask, neurons);
  for (std::int64_t f = 0; f < neurons; ++f) {
    if (threshold[f] < 1 || offsets[f] < 0 || offsets[f + 1] < offsets[f] || offsets[0] != 0) {
      arrays::refuse(arrays::where(op, "threshold, offsets"),
                     "are out of range at " + std::to_string(f));
    }
  }
  auto* segment_of = arrays::vector<std::int32_t>(op, "segment_of", segment_of_, offsets[neurons]);
  auto* fires = arrays::vector<std::int64_t>(op, "fires", fires_, offsets[neurons]);
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  const py::gil_scoped_release release;
  try {
    ngram_triggers(mask, order.data, order.length, segments, n_segments, neurons, threshold,
                   offsets, segment_of, fires, isa, threads);
  } catch (const Contradiction& contradiction) {
    return std::pair{contradiction.neuron, contradiction.found};
  }
  return std::nullopt;
}

std::int64_t py_ffn_epilogue(const py::array& z_, const py::array& mask_, const py::array& z_max_,
                             const std::string& isa_, int threads) {
  constexpr const char* op = "ffn_epilogue";
  const auto z = arrays::matrix<float>(op, "z", z_);
  const auto mask = arrays::strip_mask(op, mask_, z.rows, z.cols);
  auto* z_max = arrays::vector<float>(op, "z_max", z_max_, z.cols);
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  const py::gil_scoped_release release;
  return ffn_epilogue(z, mask, z_max, isa, threads);
}

/// A weight [columns, terms] that is laid out as panels.
Panels panels_in(const char* op, const char* name, const py::array& array, std::int64_t columns,
                 std::int64_t terms) {
  const Panels shape = panels_of(nullptr, columns, terms);
  return panels_of(arrays::vector<const std::uint16_t>(op, name, array, shape.panels * shape.size),
                   columns, terms);
}

std::int64_t py_ffn(const py::array& x_, const py::array& fc1_,
                    const std::optional<py::array>& fc1_bias_, const std::optional<py::array>& fc2_,
                    const std::optional<py::array>& fc2_bias_, const py::array& residual_,
                    const py::array& mask_, const py::array& z_max_, const std::string& isa_,
                    int threads) {
  constexpr const char* op = "ffn";
  const auto x = arrays::matrix<const std::uint16_t>(op, "x", x_);
  const auto residual = arrays::matrix<float>(op, "residual", residual_);
  const std::int64_t neurons = z_max_.size();
  auto* z_max = arrays::vector<float>(op, "z_max", z_max_, neurons);
  if (residual.rows != x.rows) {
    arrays::refuse(arrays::where(op, "residual"),
                   "has shape " + arrays::shape_of(residual_) + ", expected as many rows as x has");
  }
  const auto mask = arrays::strip_mask(op, mask_, x.rows, neurons);
  const Panels fc1 = panels_in(op, "fc1", fc1_, neurons, x.cols);
  const Panels fc2 =
      fc2_ ? panels_in(op, "fc2", *fc2_, residual.cols, neurons) : panels_of(nullptr, 0, 0);
  const auto* fc1_bias =
      fc1_bias_ ? arrays::vector<const std::uint16_t>(op, "fc1_bias", *fc1_bias_, neurons)
                : nullptr;
  const auto* fc2_bias =
      fc2_bias_ ? arrays::vector<const std::uint16_t>(op, "fc2_bias", *fc2_bias_, residual.cols)
                : nullptr;
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  const py::gil_scoped_release release;
  return ffn(x, fc1, fc1_bias, fc2, fc2_bias, residual, mask, z_max, isa, threads);
}

void py_layer_norm(const py::array& x_, const std::optional<py::array>& weight_,
                   const std::optional<py::array>& bias_, float epsilon, const py::array& out_,
                   const std::string& isa_, int threads) {
  constexpr const char* op = "layer_norm";
  const auto x = arrays::matrix<const float>(op, "x", x_);
  const auto out = arrays::matrix<std::uint16_t>(op, "out", out_);
  if (out.rows != x.rows || out.cols != x.cols) {
    arrays::refuse(arrays::where(op, "out"),
                   "has shape " + arrays::shape_of(out_) + ", expected " + arrays::shape_of(x_));
  }
  const auto* weight =
      weight_ ? arrays::vector<const float>(op, "weight", *weight_, x.cols) : nullptr;
  const auto* bias = bias_ ? arrays::vector<const float>(op, "bias", *bias_, x.cols) : nullptr;
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  const py::gil_scoped_release release;
  layer_norm(x, weight, bias, epsilon, out, isa, threads);
}

void py_attention(const py::array& qkv_, const py::array& starts_, std::int64_t heads,
                  const py::array& out_, const std::string& isa_, int threads) {
  constexpr const char* op = "attention";
  const auto qkv = arrays::matrix<const std::uint16_t>(op, "qkv", qkv_);
  const auto out = arrays::matrix<std::uint16_t>(op, "out", out_);
  if (out.rows != qkv.rows || 3 * out.cols != qkv.cols) {
    arrays::refuse(arrays::where(op, "out"), "has shape " + arrays::shape_of(out_) +
                                                 ", expected a third of " + arrays::shape_of(qkv_));
  }
  if (heads < 1 || out.cols % heads != 0) {
    arrays::refuse(
        arrays::where(op, "heads"),
        "is " + std::to_string(heads) + ", expected a divisor of " + std::to_string(out.cols));
  }
  const std::int64_t sequences = pieces(op, "starts", starts_);
  const auto* starts = arrays::vector<const std::int64_t>(op, "starts", starts_, sequences + 1);
  check_segments(op, starts, sequences, qkv.rows);
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  const py::gil_scoped_release release;
  attention(qkv, starts, sequences, heads, out, isa, threads);
}

template <typename Element>
void linear_to(const py::array& x_, const py::array& weight_, const std::optional<py::array>& bias_,
               const py::array& out_, Isa isa, int threads) {
  constexpr const char* op = "linear";
  const auto x = arrays::matrix<const std::uint16_t>(op, "x", x_);
  const auto out = arrays::matrix<Element>(op, "out", out_);
  if (out.rows != x.rows) {
    arrays::refuse(arrays::where(op, "out"),
                   "has shape " + arrays::shape_of(out_) + ", expected as many rows as x has");
  }
  const Panels weight = panels_in(op, "weight", weight_, out.cols, x.cols);
  const auto* bias =
      bias_ ? arrays::vector<const std::uint16_t>(op, "bias", *bias_, out.cols) : nullptr;
  const py::gil_scoped_release release;
  linear(x, weight, bias, out, isa, threads);
}

/// out of f32 is a residual stream.
void py_linear(const py::array& x, const py::array& weight, const std::optional<py::array>& bias,
               const py::array& out, const std::string& isa_, int threads) {
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  if (py::isinstance<py::array_t<float>>(out)) {
    linear_to<float>(x, weight, bias, out, isa, threads);
  } else {
    linear_to<std::uint16_t>(x, weight, bias, out, isa, threads);
  }
}

void py_linear_split(const py::array& x_, const std::vector<py::array>& weight_,
                     const std::optional<py::array>& bias_, const py::array& out_,
                     const std::string& isa_, int threads) {
  constexpr const char* op = "linear_split";
  const auto x = arrays::matrix<const float>(op, "x", x_);
  const auto out = arrays::matrix<float>(op, "out", out_);
  if (out.rows != x.rows) {
    arrays::refuse(arrays::where(op, "out"),
                   "has shape " + arrays::shape_of(out_) + ", expected as many rows as x has");
  }
  SplitPanels weight{};
  weight.parts = static_cast<int>(weight_.size());
  if (weight.parts < 1 || weight.parts > SplitPanels::most) {
    arrays::refuse(arrays::where(op, "weight"), "has no part or too many");
  }
  for (int part = 0; part < weight.parts; ++part) {
    weight.part[part] =
        panels_in(op, "weight", weight_[static_cast<std::size_t>(part)], out.cols, x.cols);
  }
  const auto* bias = bias_ ? arrays::vector<const float>(op, "bias", *bias_, out.cols) : nullptr;
  const Isa isa = isa_of(isa_);
  threads_of(threads);
  const py::gil_scoped_release release;
  linear_split(x, weight, bias, out, isa, threads);
}

/// (low, column, upper, number)
using CandidateArrays = std::tuple<py::array, py::array, py::array, py::array>;

/// The arrays of one end of the scores of so many neurons.
ScoreCandidates candidates_in(const char* op, const CandidateArrays& arrays_,
                              std::int64_t neurons) {
  const auto& [low_, column_, upper_, number_] = arrays_;
  const ScoreCandidates found{arrays::matrix<float>(op, "low", low_),
                              arrays::matrix<std::int32_t>(op, "column", column_),
                              arrays::matrix<float>(op, "upper", upper_),
                              arrays::vector<std::int32_t>(op, "number", number_, neurons)};
  if (found.low.rows != neurons || found.low.cols < 1) {
    arrays::refuse(arrays::where(op, "low"), "has shape " + arrays::shape_of(low_));
  }
  if (found.column.rows != neurons || found.upper.rows != neurons ||
      found.upper.cols != found.column.cols || found.column.cols > INT32_MAX) {
    arrays::refuse(arrays::where(op, "column, upper"),
                   "have shapes " + arrays::shape_of(column_) + ", " + arrays::shape_of(upper_));
  }
  for (std::int64_t b = 0; b < neurons; ++b) {
    if (found.number[b] < -1 || found.number[b] > found.column.cols) {
      arrays::refuse(arrays::where(op, "number"), "is out of range at " + std::to_string(b));
    }
  }
  return found;
}

template <typename Score>
void candidates_of(const py::array& scores_, const py::array& length_, const py::array& bound_,
                   float unit, std::int32_t first, const CandidateArrays& largest_,
                   const CandidateArrays& smallest_) {
  constexpr const char* op = "score_candidates";
  const auto scores = arrays::matrix<const Score>(op, "scores", scores_);
  if (first < 0 || scores.cols > INT32_MAX - first) {
    arrays::refuse(arrays::where(op, "first"), "is out of range");
  }
  const NearScores<Score> near{
      scores, arrays::vector<const float>(op, "length", length_, scores.cols),
      arrays::vector<const float>(op, "bound", bound_, scores.rows), unit, first};
  const ScoreCandidates largest = candidates_in(op, largest_, scores.rows);
  const ScoreCandidates smallest = candidates_in(op, smallest_, scores.rows);
  const py::gil_scoped_release release;
  score_candidates(near, largest, smallest);
}

void py_score_candidates(const py::array& scores, const py::array& length, const py::array& bound,
                         float unit, std::int32_t first, const CandidateArrays& largest,
                         const CandidateArrays& smallest) {
  if (py::isinstance<py::array_t<std::uint16_t>>(scores)) {
    candidates_of<std::uint16_t>(scores, length, bound, unit, first, largest, smallest);
  } else {
    candidates_of<float>(scores, length, bound, unit, first, largest, smallest);
  }
}

void py_exact_scores(const py::array& rows_, const py::array& directions_, const py::array& owner_,
                     const py::array& out_) {
  constexpr const char* op = "exact_scores";
  const auto rows = arrays::matrix<const float>(op, "rows", rows_);
  const auto directions = arrays::matrix<const double>(op, "directions", directions_);
  const auto* owner = arrays::vector<const std::int64_t>(op, "owner", owner_, rows.rows);
  auto* out = arrays::vector<float>(op, "out", out_, rows.rows);
  if (directions.cols != rows.cols) {
    arrays::refuse(arrays::where(op, "directions"), "has shape " + arrays::shape_of(directions_) +
                                                        ", expected as many columns as " +
                                                        arrays::shape_of(rows_));
  }
  for (std::int64_t i = 0; i < rows.rows; ++i) {
    if (owner[i] < 0 || owner[i] >= directions.rows) {
      arrays::refuse(arrays::where(op, "owner"), "is out of range at " + std::to_string(i));
    }
  }
  const py::gil_scoped_release release;
  exact_scores(rows, directions, owner, out);
}

/// That every element is one of 0 to end - 1.
template <typename T>
const T* places_in(const char* op, const char* name, const py::array& array, std::int64_t length,
                   std::int64_t end) {
  const T* data = arrays::vector<const T>(op, name, array, length);
  for (std::int64_t i = 0; i < length; ++i) {
    if (data[i] < 0 || data[i] >= end) {
      arrays::refuse(arrays::where(op, name), "is out of range at " + std::to_string(i));
    }
  }
  return data;
}

/// (sum, counts)
using TotalArrays = std::tuple<py::array, py::array>;

ScoreTotals totals_in(const char* op, const char* name, const TotalArrays& arrays_,
                      std::int64_t rows) {
  const auto& [sum, counts] = arrays_;
  const ScoreTotals totals{arrays::vector<double>(op, name, sum, rows),
                           arrays::matrix<std::int32_t>(op, name, counts)};
  if (totals.counts.rows != rows || totals.counts.cols != 3) {
    arrays::refuse(arrays::where(op, name), "has counts of shape " + arrays::shape_of(counts) +
                                                ", expected [" + std::to_string(rows) + ", 3]");
  }
  return totals;
}

/// groups (row, offsets, trigger); baselines (drawn, by_count, place, count)
void py_trigger_baselines(const py::array& scores_, const py::array& mean_,
                          const std::tuple<py::array, py::array, py::array>& groups_,
                          const std::tuple<py::array, py::array, py::array, py::array>& baselines_,
                          std::int64_t most_random, std::int64_t most_matched,
                          const py::array& rank_, const TotalArrays& random_,
                          const TotalArrays& matched_) {
  constexpr const char* op = "trigger_baselines";
  const auto scores = arrays::matrix<const float>(op, "scores", scores_);
  const auto* mean = arrays::vector<const double>(op, "mean", mean_, scores.rows);
  const auto& [row, offsets_, trigger] = groups_;
  const auto& [drawn, by_count, place, count] = baselines_;
  const auto* offsets = arrays::vector<const std::int64_t>(op, "offsets", offsets_, row.size() + 1);
  for (py::ssize_t g = 0; g <= row.size(); ++g) {
    if (offsets[g] < (g > 0 ? offsets[g - 1] : 0) || offsets[g] > trigger.size()) {
      arrays::refuse(arrays::where(op, "offsets"), "is out of range at " + std::to_string(g));
    }
  }
  const TriggerGroups groups{
      places_in<std::int64_t>(op, "row", row, row.size(), scores.rows), offsets, row.size(),
      places_in<std::int32_t>(op, "trigger", trigger, trigger.size(), scores.cols)};
  const Baselines baselines{
      places_in<std::int32_t>(op, "drawn", drawn, drawn.size(), scores.cols), drawn.size(),
      places_in<std::int32_t>(op, "by_count", by_count, scores.cols, scores.cols),
      places_in<std::int32_t>(op, "place", place, scores.cols, scores.cols),
      arrays::vector<const std::int64_t>(op, "count", count, scores.cols)};
  auto* rank = arrays::vector<std::int32_t>(op, "rank", rank_, trigger.size());
  const ScoreTotals random = totals_in(op, "random", random_, groups.size);
  const ScoreTotals matched = totals_in(op, "matched", matched_, trigger.size());
  const py::gil_scoped_release release;
  trigger_baselines(scores, mean, groups, baselines, most_random, most_matched, rank, random,
                    matched);
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Isa isa : all_isas) {
    if (compiled(isa) && cpu_supports(isa)) {
      names.emplace_back(isa_name(isa));
    }
  }
  return names;
}

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Isa isa : all_isas) {
    if (compiled(isa)) {
      names.emplace_back(isa_name(isa));
    }
  }
  return names;
}

std::map<std::string, std::map<std::string, std::int64_t>> executed_kernels() {
  std::map<std::string, std::map<std::string, std::int64_t>> all;
  for (int op = 0; op < op_count; ++op) {
    for (const Isa isa : all_isas) {
      all[op_name(static_cast<Op>(op))][std::string(isa_name(isa))] =
          executed(static_cast<Op>(op), isa);
    }
  }
  return all;
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() =
      "The CPU kernels, for pyneurons.backends.cpp; checked arguments come from pyneurons.ops.";

  m.def("isas", &isas, "Instruction sets that are compiled in and run here, best last.");
  m.def("compiled_isas", &compiled_isas, "Instruction sets that are compiled in.");
  m.def(
      "detect", [] { return std::string(isa_name(detect())); },
      "The best instruction set that is compiled in and runs here.");
  m.def("executed", &executed_kernels,
        "Kernel calls since the start, per op and the instruction set of the code that ran.");

  m.def("segment_counts", &py_segment_counts, py::arg("mask").noconvert(),
        py::arg("order").noconvert().none(true), py::arg("segments").noconvert(),
        py::arg("counts").noconvert(), py::arg("isa"), py::arg("threads"));
  m.def("firing_rows", &py_firing_rows, py::arg("mask").noconvert(),
        py::arg("order").noconvert().none(true), py::arg("rows").noconvert(),
        py::arg("found").noconvert(), py::arg("isa"), py::arg("threads"));
  m.def("first_segments", &py_first_segments, py::arg("mask").noconvert(),
        py::arg("order").noconvert().none(true), py::arg("segments").noconvert(),
        py::arg("count").noconvert(), py::arg("found_segments").noconvert(),
        py::arg("found").noconvert(), py::arg("isa"), py::arg("threads"));
  m.def("ngram_keys", &py_ngram_keys, py::arg("ids").noconvert(), py::arg("starts").noconvert(),
        py::arg("n"), py::arg("bits"), py::arg("boundary_id"), py::arg("keys").noconvert(),
        py::arg("isa"), py::arg("threads"));
  m.def("ngram_coverage", &py_ngram_coverage, py::arg("mask").noconvert(),
        py::arg("order").noconvert().none(true), py::arg("segments").noconvert(),
        py::arg("fires").noconvert(), py::arg("histogram").noconvert(),
        py::arg("large").noconvert(), py::arg("isa"), py::arg("threads"),
        "None, or (neuron, remainder) where the fires contradict the mask.");
  m.def("histogram_entries", &py_histogram_entries, py::arg("histogram").noconvert(),
        py::arg("large").noconvert(), py::arg("threads"),
        "(offsets, count, number): how many n-grams give each neuron each count, ascending.");
  m.def("ngram_triggers", &py_ngram_triggers, py::arg("mask").noconvert(),
        py::arg("order").noconvert().none(true), py::arg("segments").noconvert(),
        py::arg("threshold").noconvert(), py::arg("offsets").noconvert(),
        py::arg("segment_of").noconvert(), py::arg("fires").noconvert(), py::arg("isa"),
        py::arg("threads"), "None, or (neuron, found) where the offsets contradict the mask.");
  m.def("ffn_epilogue", &py_ffn_epilogue, py::arg("z").noconvert(), py::arg("mask").noconvert(),
        py::arg("z_max").noconvert(), py::arg("isa"), py::arg("threads"),
        "row * F + neuron of the first pre-activation that is not finite, or -1.");
  m.def("ffn", &py_ffn, py::arg("x").noconvert(), py::arg("fc1").noconvert(),
        py::arg("fc1_bias").noconvert().none(true), py::arg("fc2").noconvert().none(true),
        py::arg("fc2_bias").noconvert().none(true), py::arg("residual").noconvert(),
        py::arg("mask").noconvert(), py::arg("z_max").noconvert(), py::arg("isa"),
        py::arg("threads"),
        "row * F + neuron of the first pre-activation that is not finite, or -1.");
  m.def("layer_norm", &py_layer_norm, py::arg("x").noconvert(),
        py::arg("weight").noconvert().none(true), py::arg("bias").noconvert().none(true),
        py::arg("epsilon"), py::arg("out").noconvert(), py::arg("isa"), py::arg("threads"));
  m.def("attention", &py_attention, py::arg("qkv").noconvert(), py::arg("starts").noconvert(),
        py::arg("heads"), py::arg("out").noconvert(), py::arg("isa"), py::arg("threads"));
  m.def("linear", &py_linear, py::arg("x").noconvert(), py::arg("weight").noconvert(),
        py::arg("bias").noconvert().none(true), py::arg("out").noconvert(), py::arg("isa"),
        py::arg("threads"));
  m.def("linear_split", &py_linear_split, py::arg("x").noconvert(), py::arg("weight"),
        py::arg("bias").noconvert().none(true), py::arg("out").noconvert(), py::arg("isa"),
        py::arg("threads"));
  m.def("score_candidates", &py_score_candidates, py::arg("scores").noconvert(),
        py::arg("length").noconvert(), py::arg("bound").noconvert(), py::arg("unit"),
        py::arg("first"), py::arg("largest"), py::arg("smallest"));
  m.def("exact_scores", &py_exact_scores, py::arg("rows").noconvert(),
        py::arg("directions").noconvert(), py::arg("owner").noconvert(),
        py::arg("out").noconvert());
  m.def("trigger_baselines", &py_trigger_baselines, py::arg("scores").noconvert(),
        py::arg("mean").noconvert(), py::arg("groups"), py::arg("baselines"),
        py::arg("most_random"), py::arg("most_matched"), py::arg("rank").noconvert(),
        py::arg("random"), py::arg("matched"));
}
