#pragma once

#include <cstdint>

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

}  // namespace pyneurons
