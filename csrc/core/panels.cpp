#include "pyneurons/panels.hpp"

namespace pyneurons {

Panels panels_of(const std::uint16_t* data, std::int64_t columns, std::int64_t terms) {
  const std::int64_t chunks = (terms + Panels::chunk - 1) / Panels::chunk;
  const std::int64_t panels = (columns + Panels::width - 1) / Panels::width;
  return {data, columns, terms, panels, chunks, chunks * Panels::chunk * Panels::width};
}

}  // namespace pyneurons
