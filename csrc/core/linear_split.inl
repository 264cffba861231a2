// A linear map by split products on one block of rows. Included once per instruction set, behind
// its split_*.inl.

#include <cstdint>

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {

Isa linear_split(const LinearSplitJob& job, unsigned char* scratch, std::int64_t begin,
                 std::int64_t end) {
  const unsigned control = flush_denormals();
  if (job.weight.parts == 1) {
    split_rows<1>(job, scratch, begin, end);
  } else if (job.weight.parts == 2) {
    split_rows<2>(job, scratch, begin, end);
  } else {
    split_rows<3>(job, scratch, begin, end);
  }
  restore_control(control);
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
