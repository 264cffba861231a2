#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr std::int64_t attention_block = AttentionJob::block;
constexpr std::int64_t chunk = AttentionJob::chunk;
constexpr std::int64_t tile_columns = tile_vectors * float_lanes;
static_assert(chunk % tile_columns == 0 || tile_columns % chunk == 0);

/// What a head of a sequence needs, in f32, one behind the other in the scratch.
struct AttentionBuffers {
  float* keys;    // [blocks][width][64]: transposed
  float* values;  // [blocks][64][width]
  float* query;   // [64][width]
  float* sum;     // [64][width]
  float* scores;  // [64][64]

  AttentionBuffers(float* scratch, std::int64_t blocks, std::int64_t width)
      : keys(scratch),
        values(keys + blocks * width * attention_block),
        query(values + blocks * width * attention_block),
        sum(query + attention_block * width),
        scores(sum + attention_block * width) {}
};

inline void fill(float* begin, float* end, float value) {
  for (; begin < end; ++begin) {
    *begin = value;
  }
}

inline float from_bfloat16(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

/// e^x for x <= 0, 0 below 2^-125: products and sums, none of them fused, so that every instruction
/// set gives the same bits. Error 2 units in the last place, at x = -80 ten times that.
inline Floats exponential(Floats x) {
  const Floats power = multiply(x, broadcast(1.44269504F));
  const Floats bounded = keep_above(power, broadcast(-125.0F));
  const Floats whole = round_even(bounded);
  const Floats part = subtract(bounded, whole);
  Floats value = broadcast(1.5403530e-4F);
  constexpr float coefficients[] = {1.3333558e-3F, 9.6181291e-3F, 5.5504109e-2F,
                                    2.4022651e-1F, 6.9314718e-1F, 1.0F};
  for (const float next : coefficients) {
    value = add(multiply(value, part), broadcast(next));
  }
  return zero_below(times_power(value, whole), power, broadcast(-125.0F));
}

/// c [rows, columns] += a [rows, 32 chunks] b [32 chunks, columns], even and odd terms in chains of
/// their own.
inline void multiply_add(const float* a, std::int64_t a_stride, const float* b,
                         std::int64_t b_stride, std::int64_t chunks, float* c,
                         std::int64_t c_stride, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t row = 0; row < rows; row += tile_rows) {
    for (std::int64_t column = 0; column < columns; column += tile_columns) {
      for (std::int64_t step = 0; step < chunks; ++step) {
        Floats even[tile_rows][tile_vectors];
        Floats odd[tile_rows][tile_vectors];
        for (int r = 0; r < tile_rows; ++r) {
          for (int v = 0; v < tile_vectors; ++v) {
            even[r][v] = odd[r][v] = broadcast(0.0F);
          }
        }
        const float* left = a + row * a_stride + chunk * step;
        const float* right = b + chunk * step * b_stride + column;
        for (int term = 0; term < chunk; term += 2) {
          for (int v = 0; v < tile_vectors; ++v) {
            const Floats first = load(right + v * float_lanes);
            const Floats second = load(right + b_stride + v * float_lanes);
            for (int r = 0; r < tile_rows; ++r) {
              even[r][v] = fused(broadcast(left[r * a_stride + term]), first, even[r][v]);
              odd[r][v] = fused(broadcast(left[r * a_stride + term + 1]), second, odd[r][v]);
            }
          }
          right += 2 * b_stride;
        }
        for (int r = 0; r < tile_rows; ++r) {
          float* place = c + (row + r) * c_stride + column;
          for (int v = 0; v < tile_vectors; ++v) {
            float* here = place + v * float_lanes;
            store(here, add(load(here), add(even[r][v], odd[r][v])));
          }
        }
      }
    }
  }
}

/// Scores of one row of 64 keys become weights, rounded to bfloat16; returns the new maximum.
/// `total` gets the sum of the weights before rounding: 16 lanes, then halves of them.
inline float weigh(float* scores, float scale, float maximum, float& total) {
  Floats most = broadcast(maximum);
  for (std::int64_t j = 0; j < attention_block; j += float_lanes) {
    const Floats score = multiply(load(scores + j), broadcast(scale));
    store(scores + j, score);
    most = larger(most, score);
  }
  const float reached = largest_lane(most);
  alignas(64) float lanes[16] = {};
  for (std::int64_t j = 0; j < attention_block; j += float_lanes) {
    const Floats weight = exponential(subtract(load(scores + j), broadcast(reached)));
    float* lane = lanes + j % 16;
    store(lane, add(load(lane), weight));
    store(scores + j, round_bfloat16(weight));
  }
  total = tree_sum(lanes);
  return reached;
}

inline void pack_sequence(const AttentionJob& job, std::int64_t first, std::int64_t length,
                          std::int64_t head, std::int64_t width, const AttentionBuffers& buffers) {
  const std::int64_t inner = job.out.cols;
  fill(buffers.keys, buffers.query, 0.0F);  // values as well, which lie between
  for (std::int64_t j = 0; j < length; ++j) {
    const std::uint16_t* row =
        job.qkv.data + (first + j) * job.qkv.row_stride + head * job.head_size;
    const std::int64_t block = j / attention_block * attention_block * width;
    float* key = buffers.keys + block + j % attention_block;
    float* value = buffers.values + block + j % attention_block * width;
    for (std::int64_t d = 0; d < job.head_size; ++d) {
      key[d * attention_block] = from_bfloat16(row[inner + d]);
      value[d] = from_bfloat16(row[2 * inner + d]);
    }
  }
}

}  // namespace

Isa attention(const AttentionJob& job, float* scratch, std::int64_t sequence, std::int64_t head) {
  const unsigned control = flush_denormals();
  const std::int64_t first = job.starts[sequence];
  const std::int64_t length = job.starts[sequence + 1] - first;
  const std::int64_t width = (job.head_size + chunk - 1) / chunk * chunk;
  const std::int64_t blocks = (length + attention_block - 1) / attention_block;
  const AttentionBuffers buffers(scratch, blocks, width);
  pack_sequence(job, first, length, head, width, buffers);

  constexpr float none = -__builtin_inff();
  for (std::int64_t query = 0; query < length; query += attention_block) {
    const std::int64_t queries =
        length - query < attention_block ? length - query : attention_block;
    const std::int64_t rows = (queries + tile_rows - 1) / tile_rows * tile_rows;
    fill(buffers.query, buffers.scores, 0.0F);  // the sums as well
    for (std::int64_t i = 0; i < queries; ++i) {
      const std::uint16_t* row =
          job.qkv.data + (first + query + i) * job.qkv.row_stride + head * job.head_size;
      for (std::int64_t d = 0; d < job.head_size; ++d) {
        buffers.query[i * width + d] = from_bfloat16(row[d]);
      }
    }
    alignas(64) float maximum[attention_block];
    alignas(64) float total[attention_block] = {};
    alignas(64) float shrink[attention_block] = {};
    alignas(64) float added[attention_block] = {};
    fill(maximum, maximum + attention_block, none);
    for (std::int64_t key = 0; key <= query; key += attention_block) {
      float* scores = buffers.scores;
      fill(scores, scores + rows * attention_block, 0.0F);
      multiply_add(buffers.query, width, buffers.keys + key * width, attention_block, width / chunk,
                   scores, attention_block, rows, attention_block);
      for (std::int64_t i = 0; i < queries; ++i) {
        float* row = scores + i * attention_block;
        if (key == query) {
          fill(row + i + 1, row + attention_block, none);
        }
        const float reached = weigh(row, job.scale, maximum[i], added[i]);
        shrink[i] = maximum[i] - reached;
        maximum[i] = reached;
      }
      for (std::int64_t i = 0; i < attention_block; i += float_lanes) {
        const Floats factor = exponential(load(shrink + i));
        store(shrink + i, factor);
        store(total + i, add(multiply(load(total + i), factor), load(added + i)));
      }
      for (std::int64_t i = 0; i < queries; ++i) {
        float* sum = buffers.sum + i * width;
        for (std::int64_t d = 0; d < width; d += float_lanes) {
          store(sum + d, multiply(load(sum + d), broadcast(shrink[i])));
        }
      }
      multiply_add(scores, attention_block, buffers.values + key * width, width,
                   attention_block / chunk, buffers.sum, width, rows, width);
    }
    for (std::int64_t i = 0; i < queries; ++i) {
      float* sum = buffers.sum + i * width;
      for (std::int64_t d = 0; d < width; d += float_lanes) {
        store(sum + d, round_bfloat16(divide(load(sum + d), broadcast(total[i]))));
      }
      std::uint16_t* out =
          job.out.data + (first + query + i) * job.out.row_stride + head * job.head_size;
      for (std::int64_t d = 0; d < job.head_size; ++d) {
        std::uint32_t bits;
        std::memcpy(&bits, sum + d, sizeof bits);
        out[d] = static_cast<std::uint16_t>(bits >> 16);
      }
    }
  }
  restore_control(control);
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
