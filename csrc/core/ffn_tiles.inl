// The feed-forward block on one block of rows, by tiles. Included behind tiles_*.hpp.
//
// Neurons go in groups whose h stays in L2: fc1 of a group, then its share of fc2, added to y. Each
// block of products runs while the vector units work on the block before: its bias, bits, maxima,
// ReLU and rounding, or the sum with the residual. (Sapphire Rapids class, one core, fc1 of 768 x
// 3072: 1.8 TFLOP/s, and 2.2 if nothing were done with z.)

#include <cstdint>
#include <cstring>

#include "kernels.hpp"
#include "live_pairs.inl"
#include "products_of_blocks.inl"
#include "take.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr std::int64_t width = Panels::width;
constexpr int rows_of_step = 4;  // that are read between products

// Share of firing neurons from which on all are multiplied. What fires alone runs in f32 vectors,
// with its neighbour: at the same number of products, tiles are about 12 times as fast (an
// estimate: untimed).
constexpr double dense_from = 0.025;

/// Sizes that depend on the hidden size: x and one group of h fit L2 (2 MiB) together with a part
/// of the weights (Sapphire Rapids class, one core, hidden size 2,048: with 32, 48 and 64 panels
/// 1.82, 1.89 and 1.76 TFLOP/s).
struct FfnSizes {
  std::int64_t rows;    // of a block
  std::int64_t panels;  // of 32 neurons, of a group

  explicit FfnSizes(const FfnJob& job) {
    constexpr std::int64_t small = 1024 / Panels::chunk;
    constexpr std::int64_t medium = 2048 / Panels::chunk;
    rows = job.fc1.chunks <= small ? 512 : job.fc1.chunks <= medium ? 256 : 128;
    panels = job.fc1.chunks <= small ? 24 : 48;
  }
};

/// What a block of rows needs, one behind the other in the scratch.
struct FfnBuffers {
  std::uint16_t* x;       // [blocks of 32 rows][chunks of D][2][16][32]
  std::uint16_t* h;       // the same, of the group's neurons
  float* y;               // [panels of D_out][blocks][32][32]
  float* part;            // [blocks][32][32]: sums over the parts of D before the last
  float* finished;        // [3][32][32]: a block of z or y, until it was read
  std::uint32_t* bits;    // [panels + 16][rows]: of the group, until it is done
  std::uint16_t* live;    // [blocks][panels]: panels with neurons that fire
  std::int64_t* n_live;   // [blocks]
  LivePair* pairs;        // [rows][pairs of the group]
  std::int64_t* n_pairs;  // [rows]
  std::size_t size;

  FfnBuffers(const FfnJob& job, unsigned char* scratch) {
    const FfnSizes sizes(job);
    const std::int64_t blocks = sizes.rows / block_rows;
    unsigned char* place = scratch;
    take(place, x, blocks * job.fc1.chunks * chunk_size);
    take(place, h, blocks * sizes.panels * chunk_size);
    take(place, y, blocks * job.fc2.panels * block_size);
    take(place, part, blocks * block_size);
    take(place, finished, 3 * block_size);
    take(place, bits, (sizes.panels + side) * sizes.rows);
    take(place, live, blocks * sizes.panels);
    take(place, n_live, blocks);
    take(place, pairs, sizes.rows * sizes.panels * width / 2);
    take(place, n_pairs, sizes.rows);
    size = static_cast<std::size_t>(place - scratch);
  }
};

/// From pre-activations to bits, maxima and h: the rows of one finished block, some at each step.
struct Activation {
  const FfnJob& job;
  const FfnBuffers& buffers;
  std::int64_t begin;   // first row of the block of rows
  std::int64_t rows;    // that there are
  std::int64_t first;   // panel of the group
  std::int64_t panels;  // of the group
  float* z_max;
  alignas(64) float wrong[width] = {};  // NaN where a pre-activation was not finite
  std::int64_t n_fires = 0;
  // The block under way:
  std::int64_t left = 0;  // of its rows
  const float* z = nullptr;
  const float* bias = nullptr;
  float* most = nullptr;
  std::uint16_t* h = nullptr;
  std::uint32_t* bits = nullptr;
  std::int64_t fires = 0;
  std::int64_t panel = 0;
  std::int64_t block = -1;

  void take(const float* finished, std::int64_t of_panel, std::int64_t of_block) {
    panel = of_panel;
    block = of_block;
    const std::int64_t there = rows - block * block_rows;
    left = there < block_rows ? there : block_rows;
    z = finished;
    bias = job.fc1_bias + (first + panel) * width;
    most = z_max + (first + panel) * width;
    h = buffers.h + (block * panels + panel) * chunk_size;
    bits = buffers.bits + panel * FfnSizes(job).rows + block * block_rows;
    fires = 0;
  }

  /// Four rows: eight steps do a block.
  void step() {
    if (left >= rows_of_step) {
      activate<rows_of_step>();
    }
  }

  /// The rows that are left, and whether there is anything for fc2.
  void finish() {
    while (left > 0) {
      activate<1>();
    }
    if (fires != 0) {
      const std::int64_t found = buffers.n_live[block]++;
      buffers.live[block * panels + found] = static_cast<std::uint16_t>(panel);
      n_fires += fires;
      fires = 0;
    }
  }

  template <int count>
  void activate() {
    constexpr int vectors = static_cast<int>(width) / float_lanes;
    Floats add_bias[vectors];
    Floats largest[vectors];
    Floats not_zero[vectors];
    for (int v = 0; v < vectors; ++v) {
      add_bias[v] = load(bias + v * float_lanes);
      largest[v] = load(most + v * float_lanes);
      not_zero[v] = load(wrong + v * float_lanes);
    }
    for (int row = 0; row < count; ++row) {
      std::uint32_t word = 0;
      for (int v = 0; v < vectors; v += 2) {
        Floats value[2];
        for (int k = 0; k < 2; ++k) {
          const int lane = (v + k) * float_lanes;
          value[k] = add(load(z + row * width + lane), add_bias[v + k]);
          word |= positive(value[k]) << lane;
          largest[v + k] = larger(value[k], largest[v + k]);
          not_zero[v + k] = fused(value[k], broadcast(0.0F), not_zero[v + k]);
        }
        store_bfloat16(h + row * width + v * float_lanes, larger(value[0], broadcast(0.0F)),
                       larger(value[1], broadcast(0.0F)));
      }
      bits[row] = word;
      fires += __builtin_popcount(word);
    }
    for (int v = 0; v < vectors; ++v) {
      store(most + v * float_lanes, largest[v]);
      store(wrong + v * float_lanes, not_zero[v]);
    }
    left -= count;
    z += count * width;
    h += count * width;
    bits += count;
  }
};

/// From the bits of a group to the mask, 16 words of 16 rows at a time. Its rows are cache lines:
/// word by word, between products, they would cost fc1 10 %.
inline void write_mask(const FfnJob& job, const FfnBuffers& buffers, std::int64_t begin,
                       std::int64_t rows, std::int64_t first, std::int64_t panels) {
  const StripMask& mask = job.mask;
  const std::int64_t stride = FfnSizes(job).rows;
  alignas(64) std::uint32_t words[side][side];
  std::int64_t count = 0;
  for (std::int64_t panel = 0; panel < panels; panel += count) {
    const std::int64_t strip = (first + panel) / mask.strip_words;
    const std::int64_t word = (first + panel) % mask.strip_words;
    count = panels - panel < side ? panels - panel : side;
    count = mask.strip_words - word < count ? mask.strip_words - word : count;
    for (std::int64_t row = 0; row < rows; row += side) {
      transpose(buffers.bits + panel * stride + row, stride, words[0], side);
      const std::int64_t there = rows - row < side ? rows - row : side;
      std::uint32_t* to =
          mask.data + strip * mask.strip_stride + (begin + row) * mask.row_stride + word;
      for (std::int64_t i = 0; i < there; ++i, to += mask.row_stride) {
        if (count == side) {
          std::memcpy(to, words[i], sizeof words[i]);
          continue;
        }
        for (std::int64_t k = 0; k < count; ++k) {
          to[k] = words[i][k];
        }
      }
    }
  }
}

/// Adds y and its bias to the residual: the rows of one finished block, some at each step.
struct Addition {
  const FfnJob& job;
  std::int64_t begin;
  std::int64_t rows;
  // The block under way:
  std::int64_t left = 0;  // of its rows
  const float* y = nullptr;
  const float* bias = nullptr;
  float* residual = nullptr;
  std::int64_t columns = 0;

  void take(const float* finished, std::int64_t panel, std::int64_t block) {
    const std::int64_t there = rows - block * block_rows;
    const std::int64_t column = panel * width;
    left = there < block_rows ? there : block_rows;
    y = finished;
    bias = job.fc2_bias + column;
    residual = job.residual.data + (begin + block * block_rows) * job.residual.row_stride + column;
    columns = job.residual.cols - column < width ? job.residual.cols - column : width;
  }

  /// Four rows: eight steps do a block.
  void step() {
    if (left >= rows_of_step && columns == width) {
      for (int row = 0; row < rows_of_step; ++row) {
        add_row();
      }
    }
  }

  void finish() {
    while (left > 0) {
      if (columns == width) {
        add_row();
        continue;
      }
      for (std::int64_t lane = 0; lane < columns; ++lane) {
        residual[lane] = residual[lane] + (y[lane] + bias[lane]);
      }
      next();
    }
  }

  void add_row() {
    // The row of the next block: rows lie too far apart for the processor to see it coming.
    __builtin_prefetch(residual + block_rows * job.residual.row_stride, 1, 3);
    __builtin_prefetch(residual + block_rows * job.residual.row_stride + width / 2, 1, 3);
    for (std::int64_t lane = 0; lane < width; lane += float_lanes) {
      store(residual + lane, add(load(residual + lane), add(load(y + lane), load(bias + lane))));
    }
    next();
  }

  void next() {
    y += width;
    residual += job.residual.row_stride;
    --left;
  }
};

/// y += h of one group times its rows of fc2; the last group's sums go to the residual.
template <int lines>
inline void down_by_tiles(Engine& engine, const FfnJob& job, const FfnBuffers& buffers,
                          std::int64_t blocks, std::int64_t first, std::int64_t panels,
                          Addition* addition) {
  const Parts parts(panels);
  Nothing nothing;
  Chain<lines> chain{engine, buffers.finished + 2 * block_size};
  std::int64_t turn = 0;
  for (std::int64_t panel = 0; panel < job.fc2.panels; ++panel) {
    const std::uint16_t* weights = job.fc2.data + panel * job.fc2.size + first * chunk_size;
    for (std::int64_t part = 0; part < parts.number; ++part) {
      const std::int64_t begin = parts.begin(part);
      const std::int64_t end = parts.begin(part + 1);
      const std::uint16_t* ahead =
          part + 1 < parts.number ? weights + end * chunk_size : weights + job.fc2.size;
      for (std::int64_t block = 0; block < blocks; ++block) {
        const std::uint16_t* live = buffers.live + block * panels;
        const std::uint16_t* left = buffers.h + block * panels * chunk_size;
        const std::uint16_t* right = weights;
        std::int64_t steps = end - begin;
        if (buffers.n_live[block] < panels) {
          const std::uint16_t* const stop = live + buffers.n_live[block];
          while (live < stop && *live < begin) {
            ++live;
          }
          const std::uint16_t* last = live;
          while (last < stop && *last < end) {
            ++last;
          }
          steps = last - live;
        } else {
          live = nullptr;
          left += begin * chunk_size;
          right += begin * chunk_size;
        }
        float* sums = buffers.y + (panel * blocks + block) * block_size;
        const float* before = first == 0 && part == 0 ? nullptr : sums;
        if (addition != nullptr && part + 1 == parts.number) {
          float* out = buffers.finished + turn % 2 * block_size;
          chain.multiply(left, right, live, steps, before, out, ahead, *addition);
          addition->finish();
          addition->take(out, panel, block);
          ++turn;
        } else {
          chain.multiply(left, right, live, steps, before, sums, ahead, nothing);
        }
      }
    }
  }
  chain.finish();
  if (addition != nullptr) {
    addition->finish();
  }
}

/// Lists the pairs of each row that are not both 0.
inline void list_pairs(const FfnJob& job, const FfnBuffers& buffers, std::int64_t rows,
                       std::int64_t first, std::int64_t panels) {
  const std::int64_t stride = FfnSizes(job).rows;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::uint32_t* bits = buffers.bits + row;
    const std::uint16_t* h =
        buffers.h + row / block_rows * panels * chunk_size + row % block_rows * width;
    LivePair* pairs = buffers.pairs + row * panels * (width / 2);
    std::int64_t found = 0;
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      const std::int64_t word = first + panel;
      const std::uint32_t fires = bits[panel * stride];
      for (std::uint32_t rest = (fires | fires >> 1) & 0x55555555u; rest != 0; rest &= rest - 1) {
        const unsigned place = static_cast<unsigned>(__builtin_ctz(rest));
        pairs[found].pair = static_cast<unsigned>(word * width) / 2 + place / 2;
        std::memcpy(&pairs[found].values, h + panel * chunk_size + place, sizeof pairs->values);
        ++found;
      }
    }
    buffers.n_pairs[row] = found;
  }
}

/// y += the listed pairs times `vectors` vectors of columns from `column` on.
template <int vectors>
inline void add_pairs(const FfnJob& job, const FfnBuffers& buffers, std::int64_t rows,
                      std::int64_t blocks, std::int64_t panels, std::int64_t column) {
  const std::uint16_t* right = job.fc2.data + column / width * job.fc2.size + 2 * (column % width);
  for (std::int64_t row = 0; row < rows; ++row) {
    const LivePair* pairs = buffers.pairs + row * panels * (width / 2);
    float* y = buffers.y + column / width * blocks * block_size + row * width + column % width;
    add_live<vectors>(pairs, pairs + buffers.n_pairs[row], right, job.fc2.size, y,
                      blocks * block_size);
  }
}

/// y += h of one group times its rows of fc2 from the lists alone: work in proportion to what
/// fires.
inline void down_by_pairs(const FfnJob& job, const FfnBuffers& buffers, std::int64_t rows,
                          std::int64_t blocks, std::int64_t panels) {
  constexpr std::int64_t group = live_vectors * float_lanes;
  constexpr int fewer = group > width ? static_cast<int>(width) / float_lanes : live_vectors;
  const std::int64_t outer = job.fc2.panels * width;
  std::int64_t column = 0;
  for (; column + group <= outer; column += group) {
    add_pairs<live_vectors>(job, buffers, rows, blocks, panels, column);
  }
  for (; column < outer; column += fewer * float_lanes) {
    add_pairs<fewer>(job, buffers, rows, blocks, panels, column);
  }
}

/// row * F + neuron of the first pre-activation of a group that is not finite: once more, slowly.
inline std::int64_t first_wrong(Engine& engine, const FfnJob& job, const FfnBuffers& buffers,
                                std::int64_t begin, std::int64_t rows, std::int64_t first,
                                std::int64_t panels) {
  std::int64_t found = -1;
  for (std::int64_t row = 0; row < rows && found < 0; row += block_rows) {
    const std::int64_t there = rows - row < block_rows ? rows - row : block_rows;
    for (std::int64_t panel = first; panel < first + panels; ++panel) {
      float* z = buffers.finished;
      multiply_block(engine, buffers.x + row / block_rows * job.fc1.chunks * chunk_size,
                     job.fc1.data + panel * job.fc1.size, job.fc1.chunks, nullptr, z);
      for (std::int64_t i = 0; i < there * width; ++i) {
        const float value = z[i] + job.fc1_bias[panel * width + i % width];
        if (value - value == 0.0F) {
          continue;
        }
        const std::int64_t place =
            (begin + row + i / width) * job.fc1.columns + panel * width + i % width;
        found = found < 0 || place < found ? place : found;
      }
    }
  }
  return found;
}

}  // namespace

Space ffn_space(const FfnJob& job) {
  return {FfnSizes(job).rows, FfnBuffers(job, nullptr).size};
}

Isa ffn(const FfnJob& job, unsigned char* scratch, std::int64_t begin, std::int64_t end,
        float* z_max, std::int64_t* wrong) {
  const unsigned control = flush_denormals();
  Engine engine;
  engine.start();
  const FfnBuffers buffers(job, scratch);
  const std::int64_t group = FfnSizes(job).panels;
  const std::int64_t rows = end - begin;
  const std::int64_t blocks = (rows + block_rows - 1) / block_rows;
  pack_rows(job.x, begin, end, job.fc1.chunks, buffers.x);
  for (std::int64_t first = 0; first < job.fc1.panels; first += group) {
    const std::int64_t panels = job.fc1.panels - first < group ? job.fc1.panels - first : group;
    std::memset(buffers.n_live, 0, static_cast<std::size_t>(blocks) * sizeof *buffers.n_live);
    Activation activation{job, buffers, begin, rows, first, panels, z_max};
    multiply_panels(engine, buffers.x, job.fc1, first, panels, blocks, buffers.part,
                    buffers.finished, activation);
    write_mask(job, buffers, begin, rows, first, panels);
    float sum = 0.0F;
    for (const float value : activation.wrong) {
      sum += value;
    }
    if (sum != 0.0F) {
      const std::int64_t place = first_wrong(engine, job, buffers, begin, rows, first, panels);
      *wrong = *wrong < 0 || place < *wrong ? place : *wrong;
    }
    if (job.fc2.data == nullptr || *wrong >= 0) {
      continue;
    }
    const bool last = first + panels == job.fc1.panels;
    Addition addition{job, begin, rows};
    const double all = static_cast<double>(rows * panels * width);
    if (static_cast<double>(activation.n_fires) >= dense_from * all) {
      const auto down = blocks > few_blocks ? down_by_tiles<2> : down_by_tiles<4>;
      down(engine, job, buffers, blocks, first, panels, last ? &addition : nullptr);
      continue;
    }
    if (first == 0) {
      std::memset(buffers.y, 0,
                  static_cast<std::size_t>(blocks * job.fc2.panels * block_size) * sizeof(float));
    }
    list_pairs(job, buffers, rows, first, panels);
    down_by_pairs(job, buffers, rows, blocks, panels);
    for (std::int64_t panel = 0; panel < job.fc2.panels && last; ++panel) {
      for (std::int64_t block = 0; block < blocks; ++block) {
        addition.take(buffers.y + (panel * blocks + block) * block_size, panel, block);
        addition.finish();
      }
    }
  }
  engine.stop();
  restore_control(control);
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
