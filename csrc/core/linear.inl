// A linear map in bfloat16 on one block of rows. Included once per instruction set, behind its
// products_*.inl.

#include <cstdint>

#include "kernels.hpp"
#include "take.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// What a block of rows needs, one behind the other in the scratch.
struct LinearBuffers {
  Left* x;
  float* part;      // [blocks of 32 rows][32][32]
  float* finished;  // [2][32][32]
  std::size_t size;

  LinearBuffers(const LinearJob& job, unsigned char* scratch) {
    constexpr std::int64_t block = 32 * Panels::width;
    unsigned char* place = scratch;
    take(place, x, LinearJob::block * job.weight.chunks * Panels::chunk);
    take(place, part, LinearJob::block / 32 * block);
    take(place, finished, 2 * block);
    size = static_cast<std::size_t>(place - scratch);
  }
};

/// Adds the bias and rounds: the rows of one finished block, some at each step.
struct Rounding {
  const LinearJob& job;
  std::int64_t begin;
  std::int64_t rows;
  // The block under way:
  std::int64_t row = 0;  // the next of its rows
  std::int64_t end = 0;
  std::int64_t per_step = 0;
  std::int64_t columns = 0;
  const float* sums = nullptr;
  const float* bias = nullptr;
  std::uint16_t* out = nullptr;

  void take(const float* finished, std::int64_t panel, std::int64_t block, std::int64_t steps) {
    constexpr std::int64_t side = 32;
    const std::int64_t there = rows - block * side;
    const std::int64_t column = panel * Panels::width;
    row = 0;
    end = there < side ? there : side;
    per_step = (side + steps - 1) / steps;
    columns = job.out.cols - column < Panels::width ? job.out.cols - column : Panels::width;
    sums = finished;
    bias = job.bias + column;
    out = job.out.data + (begin + block * side) * job.out.row_stride + column;
  }

  void step() {
    if (row < end) {
      round(row + per_step < end ? row + per_step : end);
    }
  }

  void finish() { round(end); }

  void round(std::int64_t stop) {
    std::int64_t at = row;
    for (; at < stop; ++at) {
      const float* from = sums + at * Panels::width;
      std::uint16_t* to = out + at * job.out.row_stride;
      // The row of the next block: rows lie too far apart for the processor to see it coming.
      __builtin_prefetch(to + 32 * job.out.row_stride, 1, 2);
      std::uint16_t rounded[Panels::width];
      std::uint16_t* place = columns == Panels::width ? to : rounded;
      for (int lane = 0; lane < Panels::width; lane += 2 * float_lanes) {
        const int next = lane + float_lanes;
        store_bfloat16(place + lane, add(load(from + lane), load(bias + lane)),
                       add(load(from + next), load(bias + next)));
      }
      for (std::int64_t i = 0; place == rounded && i < columns; ++i) {
        to[i] = rounded[i];
      }
    }
    row = at;
  }
};

}  // namespace

std::size_t linear_space(const LinearJob& job) {
  return LinearBuffers(job, nullptr).size;
}

Isa linear(const LinearJob& job, unsigned char* scratch, std::int64_t begin, std::int64_t end) {
  const unsigned control = flush_denormals();
  Engine engine;
  engine.start();
  const LinearBuffers buffers(job, scratch);
  pack_rows(job.x, begin, end, job.weight.chunks, buffers.x);
  Rounding rounding{job, begin, end - begin};
  multiply_panels(engine, buffers.x, job.weight, 0, job.weight.panels, (end - begin + 31) / 32,
                  buffers.part, buffers.finished, rounding);
  engine.stop();
  restore_control(control);
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
