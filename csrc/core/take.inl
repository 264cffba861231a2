// Buffers one behind the other in a thread's scratch.

#pragma once

#include <cstddef>
#include <cstdint>

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// The next `count` elements of a scratch, which begins a cache line; so do they.
template <typename T>
inline void take(unsigned char*& place, T*& pointer, std::int64_t count) {
  pointer = reinterpret_cast<T*>(place);
  place += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
