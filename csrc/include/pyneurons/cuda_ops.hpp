#pragma once

#include <cstdint>

#include "pyneurons/matrix_view.hpp"

/// The ops of counting on a CUDA device: the contracts of the headers of the same names, with all
/// arrays in the memory of the current device.
///
/// Work is queued on `stream`, a cudaStream_t. Who needs a scalar of the device to go on (coverage,
/// triggers) waits for the stream. What the CUDA runtime refuses throws std::runtime_error with its
/// words.
namespace pyneurons::cuda {

/// Bounds of segments on the device and, the same, on the host.
struct SegmentBounds {
  const std::int64_t* device;  // [number + 1]
  const std::int64_t* host;
  std::int64_t number;

  std::int64_t length(std::int64_t s) const { return host[s + 1] - host[s]; }
};

/// How many CUDA devices this process sees. Where that is not to be had, because there is no driver
/// for example, 0 with the runtime's reason; otherwise the reason is empty.
int devices(const char** reason);

/// counts [G, F] i64 or u32, see pyneurons/segment_counts.hpp.
void segment_counts(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    const SegmentBounds& segments, MatrixView<std::int64_t> counts, void* stream);
void segment_counts(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    const SegmentBounds& segments, MatrixView<std::uint32_t> counts, void* stream);

/// See pyneurons/ngram_coverage.hpp. Scratch: 4 bytes per (bin in use, neuron), 8 per cell of
/// `large`, and 256 MiB where bins pass 4,096 rows.
void ngram_coverage(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    const SegmentBounds& segments, const std::int64_t* fires,
                    MatrixView<std::int64_t> histogram, MatrixView<std::int64_t> large,
                    void* stream);

/// See pyneurons/ngram_triggers.hpp; `entries` is the last of the offsets. Scratch: 32 bytes per
/// entry, and 256 MiB where segments pass 4,096 rows.
void ngram_triggers(MatrixView<const std::uint32_t> mask, const std::int32_t* order,
                    const SegmentBounds& segments, std::int64_t neurons,
                    const std::int64_t* threshold, const std::int64_t* offsets,
                    std::int64_t entries, std::int32_t* segment_of, std::int64_t* fires,
                    void* stream);

}  // namespace pyneurons::cuda
