#pragma once

#include "kernels.hpp"
#include "pyneurons/dispatch.hpp"

namespace pyneurons {

/// The kernels for an instruction set; throws std::invalid_argument where they are not compiled in
/// or would not run on this processor.
const Kernels& kernels(Isa isa);

/// Notes that a kernel of `op` ran code of `isa`.
void record(Op op, Isa isa);

}  // namespace pyneurons
