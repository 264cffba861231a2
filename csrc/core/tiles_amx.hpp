#pragma once

#include <cstdint>

#include "pyneurons/isa.hpp"

#if !defined(__AMX_TILE__) || !defined(__AMX_BF16__)
#  error "this file is compiled with the flags of amx"
#endif

/// The tile registers of AMX. Not the compiler's intrinsics: those of some versions do not say that
/// a tile load reads memory, and a store before it may then be moved behind it.
#define PYNEURONS_TILE_ZERO(engine, tile) __asm__ volatile("tilezero %%tmm" #tile::: "memory")
#define PYNEURONS_TILE_LOAD(engine, tile, base, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(base), "r"(stride) : "memory")
#define PYNEURONS_TILE_STREAM(engine, tile, base, stride) \
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #tile::"r"(base), "r"(stride) : "memory")
#define PYNEURONS_TILE_STORE(engine, tile, base, stride) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(base), "r"(stride) : "memory")
#define PYNEURONS_TILE_DOT(engine, sum, left, right) \
  __asm__ volatile("tdpbf16ps %%tmm" #right ", %%tmm" #left ", %%tmm" #sum::: "memory")

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// From start to stop all eight tiles have 16 rows of 64 bytes.
struct Engine {
  void start() {
    struct alignas(64) {
      std::uint8_t palette = 1;
      std::uint8_t start_row = 0;
      std::uint8_t reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } configuration;
    __asm__ volatile("ldtilecfg %0" ::"m"(configuration));
  }
  void stop() { __asm__ volatile("tilerelease" ::: "memory"); }
};

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
