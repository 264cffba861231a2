#pragma once

#include <cstddef>
#include <memory>

namespace pyneurons {

/// Memory of one thread, kept from call to call: fresh pages would cost a fault each.
class Scratch {
 public:
  /// `size` bytes that begin a cache line; their contents are open.
  unsigned char* take(std::size_t size) {
    constexpr std::size_t line = 64;
    if (size + line > size_) {
      bytes_ = std::make_unique_for_overwrite<unsigned char[]>(size + line);
      size_ = size + line;
    }
    void* place = bytes_.get();
    std::size_t space = size_;
    return static_cast<unsigned char*>(std::align(line, size, place, space));
  }

 private:
  std::unique_ptr<unsigned char[]> bytes_;
  std::size_t size_ = 0;
};

}  // namespace pyneurons
