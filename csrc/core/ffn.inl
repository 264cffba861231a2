// The feed-forward block on one block of rows. Included once per instruction set, behind its
// products_*.inl.

#include <cstdint>
#include <cstring>

#include "kernels.hpp"
#include "take.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr std::int64_t width = Panels::width;

/// Rows that share what a panel costs to fetch; 192 take 6 % longer at 768 x 3072, 25 % at
/// 2048 x 8192 (Zen 4, AVX512-BF16, 1 MiB of L2).
constexpr std::int64_t most_rows = 384;

/// Panels of fc1 whose neurons fc2 takes at a time: 1,024 neurons by 128 columns are 256 KiB.
constexpr std::int64_t panels_of_piece = 32;

/// Rows whose pre-activations of one panel, 12 KiB, stay in L1 from the product to their reader:
/// whole tiles of every kernel.
constexpr std::int64_t few_rows = 96;
static_assert(most_rows % few_rows == 0);

/// Pieces of the terms of fc2, in which its live pairs are added.
inline std::int64_t pieces_of(const FfnJob& job) {
  return (job.fc1.panels + panels_of_piece - 1) / panels_of_piece;
}

/// What a block of rows needs, one behind the other in the scratch.
struct FfnBuffers {
  Left* x;               // [rows, padded D]
  std::uint16_t* h;      // [rows, padded F], bits of bfloat16
  Left* h_left;          // the same; h itself where nothing has to be widened
  float* y;              // [rows, padded D_out]
  LivePair* live;        // [rows, padded F / 2]
  std::int64_t* bounds;  // [rows, pieces + 1]: where each piece of terms begins in `live`

  std::size_t size;

  FfnBuffers(const FfnJob& job, unsigned char* scratch) {
    const std::int64_t inner = job.fc1.chunks * Panels::chunk;
    const std::int64_t neurons = job.fc1.panels * width;
    const std::int64_t outer = job.fc2.panels * width;
    unsigned char* place = scratch;
    take(place, x, most_rows * inner);
    take(place, h, most_rows * neurons);
    if constexpr (sizeof(Left) == sizeof *h) {
      h_left = reinterpret_cast<Left*>(h);
    } else {
      take(place, h_left, most_rows * neurons);
    }
    take(place, y, most_rows * outer);
    take(place, live, most_rows * neurons / 2);
    take(place, bounds, most_rows * (pieces_of(job) + 1));
    size = static_cast<std::size_t>(place - scratch);
  }
};

/// Rows [0, rows) of 32 pre-activations: bias, who fires, the maximum, ReLU, rounding.
///
/// Returns row * 32 + neuron of the first one that is not finite, or -1.
inline std::int64_t activate(const float* z, std::int64_t rows, const float* bias, float* z_max,
                             std::uint32_t* mask, std::int64_t mask_stride, std::uint16_t* h,
                             std::int64_t h_stride) {
  constexpr int vectors = static_cast<int>(width) / float_lanes;
  std::int64_t first_wrong = -1;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::uint32_t fires = 0;
    std::uint32_t wrong = 0;
    for (int v = 0; v < vectors; ++v) {
      const int lane = v * float_lanes;
      const Floats value = add(load(z + row * width + lane), load(bias + lane));
      fires |= positive(value) << lane;
      wrong |= not_finite(value) << lane;
      store(z_max + lane, larger(value, load(z_max + lane)));
      store_bfloat16(h + row * h_stride + lane, larger(value, broadcast(0.0F)));
    }
    mask[row * mask_stride] = fires;
    if (wrong != 0 && first_wrong < 0) {
      first_wrong = row * width + __builtin_ctz(wrong);
    }
  }
  return first_wrong;
}

/// fc1 of rows [begin, end): masks, maxima and h; notes the first pre-activation that is not
/// finite.
inline void up(Engine& engine, const FfnJob& job, const FfnBuffers& buffers, std::int64_t begin,
               std::int64_t end, float* z_max, std::int64_t* wrong) {
  const std::int64_t inner = job.fc1.chunks * Panels::chunk;
  const std::int64_t neurons = job.fc1.panels * width;
  const std::int64_t rows = end - begin;
  for (std::int64_t panel = 0; panel < job.fc1.panels; ++panel) {
    const std::int64_t strip = panel / job.mask.strip_words;
    std::uint32_t* mask = job.mask.data + strip * job.mask.strip_stride +
                          begin * job.mask.row_stride + panel % job.mask.strip_words;
    for (std::int64_t row = 0; row < rows; row += few_rows) {
      const std::int64_t there = rows - row < few_rows ? rows - row : few_rows;
      alignas(64) float z[few_rows * width];
      std::memset(z, 0, sizeof z);
      product(engine, buffers.x + row * inner, inner, job.fc1.data + panel * job.fc1.size,
              job.fc1.chunks, z, width, there);
      const std::int64_t found =
          activate(z, there, job.fc1_bias + panel * width, z_max + panel * width,
                   mask + row * job.mask.row_stride, job.mask.row_stride,
                   buffers.h + row * neurons + panel * width, neurons);
      if (found >= 0) {
        const std::int64_t place =
            (begin + row + found / width) * job.fc1.columns + panel * width + found % width;
        *wrong = *wrong < 0 || place < *wrong ? place : *wrong;
      }
    }
  }
}

/// Lists the pairs of each row that are not both 0; returns how many there are.
inline std::int64_t list_live(const FfnJob& job, const FfnBuffers& buffers, std::int64_t begin,
                              std::int64_t rows) {
  constexpr unsigned pairs_of_word = width / 2;
  const std::int64_t pieces = pieces_of(job);
  std::int64_t all = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::uint32_t* mask = job.mask.data + (begin + row) * job.mask.row_stride;
    const std::uint16_t* h = buffers.h + row * job.fc1.panels * width;
    LivePair* live = buffers.live + row * job.fc1.panels * pairs_of_word;
    std::int64_t* bounds = buffers.bounds + row * (pieces + 1);
    std::int64_t found = 0;
    for (std::int64_t panel = 0; panel < job.fc1.panels; ++panel) {
      if (panel % panels_of_piece == 0) {
        bounds[panel / panels_of_piece] = found;
      }
      const std::int64_t strip = panel / job.mask.strip_words;
      const std::uint32_t fires =
          mask[strip * job.mask.strip_stride + panel % job.mask.strip_words];
      for (std::uint32_t rest = (fires | fires >> 1) & 0x55555555u; rest != 0; rest &= rest - 1) {
        const unsigned pair = static_cast<unsigned>(panel) * pairs_of_word +
                              static_cast<unsigned>(__builtin_ctz(rest)) / 2;
        live[found].pair = pair;
        std::memcpy(&live[found].values, h + 2 * pair, sizeof live->values);
        ++found;
      }
    }
    bounds[pieces] = found;
    all += found;
  }
  return all;
}

/// y += the live pairs times `vectors` vectors of columns from `column` on, of one piece of terms.
template <int vectors>
inline void down_live(const FfnJob& job, const FfnBuffers& buffers, std::int64_t rows,
                      std::int64_t piece, std::int64_t pieces, std::int64_t column) {
  const std::int64_t pairs = job.fc1.panels * width / 2;
  const std::int64_t outer = job.fc2.panels * width;
  const std::uint16_t* right = job.fc2.data + column / width * job.fc2.size + 2 * (column % width);
  for (std::int64_t row = 0; row < rows; ++row) {
    const LivePair* live = buffers.live + row * pairs;
    const std::int64_t* bounds = buffers.bounds + row * (pieces + 1);
    add_live<vectors>(live + bounds[piece], live + bounds[piece + 1], right, job.fc2.size,
                      buffers.y + row * outer + column, width);
  }
}

/// y = h fc2 from the lists alone: work in proportion to what fires.
///
/// A piece of terms by a group of columns stays in L2 while all rows of the block read it.
inline void down_by_pairs(const FfnJob& job, const FfnBuffers& buffers, std::int64_t rows) {
  constexpr std::int64_t group = live_vectors * float_lanes;
  constexpr int fewer = group > width ? static_cast<int>(width) / float_lanes : live_vectors;
  const std::int64_t pieces = pieces_of(job);
  const std::int64_t outer = job.fc2.panels * width;
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    std::int64_t column = 0;
    for (; column + group <= outer; column += group) {
      down_live<live_vectors>(job, buffers, rows, piece, pieces, column);
    }
    for (; column < outer; column += fewer * float_lanes) {
      down_live<fewer>(job, buffers, rows, piece, pieces, column);
    }
  }
}

/// y = h fc2 from all of h.
inline void down_dense(Engine& engine, const FfnJob& job, const FfnBuffers& buffers,
                       std::int64_t rows) {
  const std::int64_t neurons = job.fc1.panels * width;
  const std::int64_t outer = job.fc2.panels * width;
  if constexpr (sizeof(Left) != sizeof(std::uint16_t)) {
    to_left(buffers.h_left, buffers.h, rows * neurons);
  }
  for (std::int64_t panel = 0; panel < job.fc2.panels; ++panel) {
    product(engine, buffers.h_left, neurons, job.fc2.data + panel * job.fc2.size, job.fc2.chunks,
            buffers.y + panel * width, outer, rows);
  }
}

}  // namespace

Space ffn_space(const FfnJob& job) {
  return {most_rows, FfnBuffers(job, nullptr).size};
}

Isa ffn(const FfnJob& job, unsigned char* scratch, std::int64_t begin, std::int64_t end,
        float* z_max, std::int64_t* wrong) {
  const unsigned control = flush_denormals();
  Engine engine;
  engine.start();
  const FfnBuffers buffers(job, scratch);
  const std::int64_t rows = end - begin;
  const std::int64_t inner = job.fc1.chunks * Panels::chunk;
  std::memset(static_cast<void*>(buffers.x), 0,
              static_cast<std::size_t>(most_rows * inner) * sizeof(Left));
  for (std::int64_t row = 0; row < rows; ++row) {
    to_left(buffers.x + row * inner, job.x.data + (begin + row) * job.x.row_stride, job.x.cols);
  }
  up(engine, job, buffers, begin, end, z_max, wrong);
  if (job.fc2.data != nullptr && *wrong < 0) {
    const std::int64_t outer = job.fc2.panels * width;
    const std::int64_t pairs = job.fc1.panels * width / 2;
    std::memset(static_cast<void*>(buffers.y), 0,
                static_cast<std::size_t>(most_rows * outer) * sizeof(float));
    const std::int64_t live = list_live(job, buffers, begin, rows);
    if (static_cast<double>(live) < dense_from * static_cast<double>(rows * pairs)) {
      down_by_pairs(job, buffers, rows);
    } else {
      down_dense(engine, job, buffers, rows);
    }
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* y = buffers.y + row * outer;
      float* residual = job.residual.data + (begin + row) * job.residual.row_stride;
      for (std::int64_t column = 0; column < job.residual.cols; ++column) {
        residual[column] = residual[column] + (y[column] + job.fc2_bias[column]);
      }
    }
  }
  engine.stop();
  restore_control(control);
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
