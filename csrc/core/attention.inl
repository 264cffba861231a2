#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr std::int64_t attention_block = AttentionJob::block;
constexpr std::int64_t panel_width = Panels::width;

/// What a head of a sequence needs, one behind the other in the scratch. `width` is the head size,
/// padded.
struct AttentionBuffers {
  std::uint16_t* keys;    // [blocks][64 keys as panels of `width` terms]
  std::uint16_t* values;  // [blocks][`width` columns as panels of 64 terms]
  Left* query;            // [64, width]
  Left* weights;          // [64, 64]
  float* scores;          // [64, 64]
  float* sum;             // [64, width]

  AttentionBuffers(unsigned char* scratch, std::int64_t blocks, std::int64_t width) {
    keys = reinterpret_cast<std::uint16_t*>(scratch);
    values = keys + blocks * width * attention_block;
    scratch = reinterpret_cast<unsigned char*>(values + blocks * width * attention_block);
    query = reinterpret_cast<Left*>(scratch);
    weights = query + attention_block * width;
    scratch = reinterpret_cast<unsigned char*>(weights + attention_block * attention_block);
    scores = reinterpret_cast<float*>(scratch);
    sum = scores + attention_block * attention_block;
  }
};

inline void fill(float* begin, float* end, float value) {
  for (; begin < end; ++begin) {
    *begin = value;
  }
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

/// From the scores of one row of 64 keys to weights, rounded to bfloat16; returns the new maximum.
/// `total` gets the sum of the weights before rounding: 16 lanes, then halves of them.
inline float weigh(const float* scores, float scale, float maximum, Left* weights, float& total) {
  constexpr int parts = 16 / float_lanes;
  Floats most = load(scores);
  for (std::int64_t j = float_lanes; j < attention_block; j += float_lanes) {
    most = larger(most, load(scores + j));
  }
  // Rounding keeps the order, so that scaling the largest is as good as scaling all.
  const float largest = largest_lane(most) * scale;
  const float reached = largest > maximum || largest != largest ? largest : maximum;
  Floats lane[parts];
  for (int part = 0; part < parts; ++part) {
    lane[part] = broadcast(0.0F);
  }
  for (std::int64_t j = 0; j < attention_block; j += 16) {
    for (int part = 0; part < parts; ++part) {
      const std::int64_t place = j + part * float_lanes;
      const Floats score = multiply(load(scores + place), broadcast(scale));
      const Floats weight = exponential(subtract(score, broadcast(reached)));
      lane[part] = add(lane[part], weight);
      store_left(weights + place, weight);
    }
  }
  alignas(64) float lanes[16];
  for (int part = 0; part < parts; ++part) {
    store(lanes + part * float_lanes, lane[part]);
  }
  total = tree_sum(lanes);
  return reached;
}

inline std::uint32_t two_at(const std::uint16_t* values) {
  std::uint32_t pair;
  std::memcpy(&pair, values, sizeof pair);
  return pair;
}

/// Keys [first, first + 64) of a head as panels: pairs of terms of one key stand side by side in
/// its row already.
inline void pack_keys(const std::uint16_t* keys, std::int64_t stride, std::int64_t count,
                      std::int64_t head_size, std::int64_t width, std::uint16_t* panels) {
  for (std::int64_t panel = 0; panel < attention_block; panel += panel_width) {
    const std::int64_t there = count - panel < panel_width ? count - panel : panel_width;
    const std::uint16_t* row = keys + panel * stride;
    std::uint16_t* place = panels + panel * width;
    for (std::int64_t d = 0; d + 1 < head_size; d += 2) {
      for (std::int64_t j = 0; j < there; ++j) {
        const std::uint32_t pair = two_at(row + j * stride + d);
        std::memcpy(place + d * panel_width + 2 * j, &pair, sizeof pair);
      }
    }
    for (std::int64_t j = 0; j < there && head_size % 2 != 0; ++j) {
      place[(head_size - 1) * panel_width + 2 * j] = row[j * stride + head_size - 1];
    }
  }
}

/// Values [first, first + 64) of a head as panels: two keys side by side.
inline void pack_values(const std::uint16_t* values, std::int64_t stride, std::int64_t count,
                        std::int64_t head_size, std::uint16_t* panels) {
  for (std::int64_t j = 0; j < count; j += 2) {
    const std::uint16_t* one = values + j * stride;
    const std::uint16_t* other = j + 1 < count ? one + stride : nullptr;
    for (std::int64_t d = 0; d < head_size; d += panel_width) {
      const std::int64_t there = head_size - d < panel_width ? head_size - d : panel_width;
      std::uint32_t pairs[panel_width] = {};
      for (std::int64_t k = 0; k < there; ++k) {
        const std::uint32_t above = other == nullptr ? 0u : other[d + k];
        pairs[k] = one[d + k] | above << 16;
      }
      std::memcpy(panels + d * attention_block + j * panel_width, pairs, sizeof pairs);
    }
  }
}

/// Keys and values of a head as panels, zeros behind the last key and the last term.
inline void pack_sequence(const AttentionJob& job, std::int64_t first, std::int64_t length,
                          std::int64_t head, std::int64_t width, const AttentionBuffers& buffers) {
  const std::int64_t inner = job.out.cols;
  const std::int64_t size = attention_block * width;
  const std::int64_t stride = job.qkv.row_stride;
  for (std::int64_t j = 0; j < length; j += attention_block) {
    const std::int64_t count = length - j < attention_block ? length - j : attention_block;
    const std::uint16_t* key = job.qkv.data + (first + j) * stride + inner + head * job.head_size;
    std::uint16_t* keys = buffers.keys + j * width;
    std::uint16_t* values = buffers.values + j * width;
    if (count < attention_block || job.head_size < width) {
      std::memset(keys, 0, static_cast<std::size_t>(size) * sizeof *keys);
      std::memset(values, 0, static_cast<std::size_t>(size) * sizeof *values);
    }
    pack_keys(key, stride, count, job.head_size, width, keys);
    pack_values(key + inner, stride, count, job.head_size, values);
  }
}

}  // namespace

Isa attention(const AttentionJob& job, unsigned char* scratch, std::int64_t sequence,
              std::int64_t head) {
  const unsigned control = flush_denormals();
  Engine engine;
  engine.start();
  const std::int64_t first = job.starts[sequence];
  const std::int64_t length = job.starts[sequence + 1] - first;
  const std::int64_t chunks = (job.head_size + Panels::chunk - 1) / Panels::chunk;
  const std::int64_t width = chunks * Panels::chunk;
  const std::int64_t blocks = (length + attention_block - 1) / attention_block;
  const AttentionBuffers buffers(scratch, blocks, width);
  pack_sequence(job, first, length, head, width, buffers);

  constexpr float none = -__builtin_inff();
  for (std::int64_t query = 0; query < length; query += attention_block) {
    const std::int64_t queries =
        length - query < attention_block ? length - query : attention_block;
    std::memset(static_cast<void*>(buffers.query), 0,
                static_cast<std::size_t>(attention_block * width) * sizeof(Left));
    for (std::int64_t i = 0; i < queries; ++i) {
      to_left(buffers.query + i * width,
              job.qkv.data + (first + query + i) * job.qkv.row_stride + head * job.head_size,
              job.head_size);
    }
    fill(buffers.sum, buffers.sum + attention_block * width, 0.0F);
    alignas(64) float maximum[attention_block];
    alignas(64) float total[attention_block] = {};
    alignas(64) float shrink[attention_block] = {};
    alignas(64) float added[attention_block] = {};
    fill(maximum, maximum + attention_block, none);
    for (std::int64_t key = 0; key <= query; key += attention_block) {
      float* scores = buffers.scores;
      fill(scores, scores + attention_block * attention_block, 0.0F);
      for (std::int64_t column = 0; column < attention_block; column += panel_width) {
        product(engine, buffers.query, width, buffers.keys + (key + column) * width, chunks,
                scores + column, attention_block, queries);
      }
      for (std::int64_t i = 0; i < queries; ++i) {
        float* row = scores + i * attention_block;
        if (key == query) {
          fill(row + i + 1, row + attention_block, none);
        }
        const float reached =
            weigh(row, job.scale, maximum[i], buffers.weights + i * attention_block, added[i]);
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
        // Times 1, which is what most rows have once their largest score was seen, changes nothing.
        for (std::int64_t d = 0; d < width && shrink[i] != 1.0F; d += float_lanes) {
          store(sum + d, multiply(load(sum + d), broadcast(shrink[i])));
        }
      }
      for (std::int64_t column = 0; column < width; column += panel_width) {
        product(engine, buffers.weights, attention_block,
                buffers.values + key * width + column * attention_block,
                attention_block / Panels::chunk, buffers.sum + column, width, queries);
      }
    }
    for (std::int64_t i = 0; i < queries; ++i) {
      const float* sum = buffers.sum + i * width;
      std::uint16_t* out =
          job.out.data + (first + query + i) * job.out.row_stride + head * job.head_size;
      for (std::int64_t d = 0; d < width; d += float_lanes) {
        alignas(64) std::uint16_t rounded[float_lanes];
        store_bfloat16(rounded, divide(load(sum + d), broadcast(total[i])));
        const std::int64_t there =
            job.head_size - d < float_lanes ? job.head_size - d : float_lanes;
        for (std::int64_t lane = 0; lane < there; ++lane) {
          out[d + lane] = rounded[lane];
        }
      }
    }
  }
  engine.stop();
  restore_control(control);
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
