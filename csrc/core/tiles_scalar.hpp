#pragma once

#include <cstdint>
#include <cstring>

#include "floats_scalar.hpp"

/// The tile registers of AMX in plain loops, each tile 16 rows of 64 bytes. What runs on tiles is
/// so run and tested on every processor.
#define PYNEURONS_TILE_ZERO(engine, tile) engine.zero(tile)
#define PYNEURONS_TILE_LOAD(engine, tile, base, stride) engine.load(tile, base, stride)
#define PYNEURONS_TILE_STREAM(engine, tile, base, stride) engine.load(tile, base, stride)
#define PYNEURONS_TILE_STORE(engine, tile, base, stride) engine.save(tile, base, stride)
#define PYNEURONS_TILE_DOT(engine, sum, left, right) engine.dot(sum, left, right)

namespace pyneurons::PYNEURONS_ISA {
namespace {

struct Engine {
  static constexpr int side = 16;
  alignas(64) unsigned char tile[8][side][64];

  void start() {}
  void stop() {}

  void zero(int number) { std::memset(tile[number], 0, sizeof tile[number]); }

  void load(int number, const void* base, std::int64_t stride) {
    for (int row = 0; row < side; ++row) {
      std::memcpy(tile[number][row], static_cast<const unsigned char*>(base) + row * stride, 64);
    }
  }

  void save(int number, void* base, std::int64_t stride) const {
    for (int row = 0; row < side; ++row) {
      std::memcpy(static_cast<unsigned char*>(base) + row * stride, tile[number][row], 64);
    }
  }

  /// TDPBF16PS: a chain over the 16 even terms, one over the 16 odd ones, their sum added.
  void dot(int sum, int left, int right) {
    for (int row = 0; row < side; ++row) {
      std::uint16_t factors[2 * side];
      float c[side];
      std::memcpy(factors, tile[left][row], sizeof factors);
      std::memcpy(c, tile[sum][row], sizeof c);
      float even[side] = {};
      float odd[side] = {};
      for (int pair = 0; pair < side; ++pair) {
        std::uint32_t pairs[side];
        std::memcpy(pairs, tile[right][pair], sizeof pairs);
        const float first = from_bfloat16(factors[2 * pair]);
        const float second = from_bfloat16(factors[2 * pair + 1]);
        for (int column = 0; column < side; ++column) {
          even[column] = fused_exact(first, from_bfloat16(pairs[column] & 0xFFFFu), even[column]);
          odd[column] = fused_exact(second, from_bfloat16(pairs[column] >> 16), odd[column]);
        }
      }
      for (int column = 0; column < side; ++column) {
        c[column] = c[column] + (even[column] + odd[column]);
      }
      std::memcpy(tile[sum][row], c, sizeof c);
    }
  }
};

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
