// A linear map in bfloat16 on one block of rows. Included once per instruction set, behind its
// products_*.inl.

#include <cstdint>

#include "kernels.hpp"
#include "take.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

/// Rows of a block, about 1 MiB, which fit L2 (2 MiB) together with weights and results that pass
/// by (Sapphire Rapids class, one core, 2,048 terms: 1.8 TFLOP/s with 256 rows, 1.0 with 512).
inline std::int64_t rows_at_a_time(const LinearJob& job) {
  constexpr std::int64_t small = 1024 / Panels::chunk;
  constexpr std::int64_t medium = 2048 / Panels::chunk;
  return job.weight.chunks <= small ? 512 : job.weight.chunks <= medium ? 256 : 128;
}

/// What a block of rows needs, one behind the other in the scratch.
struct LinearBuffers {
  Left* x;
  float* part;      // [blocks of 32 rows][32][32]
  float* finished;  // [3][32][32]
  std::size_t size;

  LinearBuffers(const LinearJob& job, unsigned char* scratch) {
    constexpr std::int64_t block = 32 * Panels::width;
    const std::int64_t rows = rows_at_a_time(job);
    unsigned char* place = scratch;
    take(place, x, rows * job.weight.chunks * Panels::chunk);
    take(place, part, rows / 32 * block);
    take(place, finished, 3 * block);
    size = static_cast<std::size_t>(place - scratch);
  }
};

/// Writes 32 columns of a row: the sums and the bias, rounded.
inline void finish_row(const float* sums, const float* bias, std::uint16_t* out) {
  for (int lane = 0; lane < Panels::width; lane += 2 * float_lanes) {
    const int later = lane + float_lanes;
    store_bfloat16(out + lane, add(load(sums + lane), load(bias + lane)),
                   add(load(sums + later), load(bias + later)));
  }
}
/// Adds them to what is there.
inline void finish_row(const float* sums, const float* bias, float* out) {
  for (int lane = 0; lane < Panels::width; lane += float_lanes) {
    const Floats sum = add(load(sums + lane), load(bias + lane));
    store(out + lane, add(load(out + lane), sum));
  }
}

/// Brings the rows of one finished block to where they go, some at each step.
template <typename Element>
struct Finishing {
  const float* all_bias;
  MatrixView<Element> to;
  std::int64_t begin;
  std::int64_t rows;
  // The block under way:
  std::int64_t left = 0;  // of its rows
  std::int64_t columns = 0;
  const float* sums = nullptr;
  const float* bias = nullptr;
  Element* out = nullptr;

  void take(const float* finished, std::int64_t panel, std::int64_t block) {
    constexpr std::int64_t height = 32;
    const std::int64_t there = rows - block * height;
    const std::int64_t column = panel * Panels::width;
    left = there < height ? there : height;
    columns = to.cols - column < Panels::width ? to.cols - column : Panels::width;
    sums = finished;
    bias = all_bias + column;
    out = to.data + (begin + block * height) * to.row_stride + column;
  }

  /// Four rows: eight steps do a block.
  void step() {
    if (left >= 4 && columns == Panels::width) {
      for (int i = 0; i < 4; ++i) {
        whole_row();
        next();
      }
    }
  }

  void finish() {
    while (left > 0 && columns == Panels::width) {
      whole_row();
      next();
    }
    while (left > 0) {
      const std::size_t size = static_cast<std::size_t>(columns) * sizeof *out;
      Element row[Panels::width];
      std::memcpy(row, out, size);
      finish_row(sums, bias, row);
      std::memcpy(out, row, size);
      next();
    }
  }

  void whole_row() const {
    // The row of the next block: rows lie too far apart for the processor to see it coming. Into
    // L2, to be read: asked for to be written, `out` of 125m took 6 % longer (Sapphire Rapids
    // class).
    __builtin_prefetch(out + 32 * to.row_stride, 0, 2);
    if (sizeof(Element) == sizeof(float)) {
      __builtin_prefetch(out + 32 * to.row_stride + Panels::width / 2, 0, 2);
    }
    finish_row(sums, bias, out);
  }

  void next() {
    sums += Panels::width;
    out += to.row_stride;
    --left;
  }
};

template <typename Element>
void multiply(Engine& engine, const LinearJob& job, const LinearBuffers& buffers,
              std::int64_t begin, std::int64_t rows, MatrixView<Element> to) {
  Finishing<Element> finishing{job.bias, to, begin, rows};
  multiply_panels(engine, buffers.x, job.weight, 0, job.weight.panels, (rows + 31) / 32,
                  buffers.part, buffers.finished, finishing);
}

}  // namespace

Space linear_space(const LinearJob& job) {
  return {rows_at_a_time(job), LinearBuffers(job, nullptr).size};
}

Isa linear(const LinearJob& job, unsigned char* scratch, std::int64_t begin, std::int64_t end) {
  const unsigned control = flush_denormals();
  Engine engine;
  engine.start();
  const LinearBuffers buffers(job, scratch);
  pack_rows(job.x, begin, end, job.weight.chunks, buffers.x);
  if (job.residual.rows > 0) {
    multiply(engine, job, buffers, begin, end - begin, job.residual);
  } else {
    multiply(engine, job, buffers, begin, end - begin, job.out);
  }
  engine.stop();
  restore_control(control);
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
