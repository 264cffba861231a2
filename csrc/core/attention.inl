// Causal attention of one head of one sequence. Included once per instruction set, behind its
// products_*.inl.
//
// Everything stands on its side: scores as [keys, queries], so that each vector lane is a query.
// The maximum and the sum over keys then need no step between lanes, and the weights come out as
// the right side of the product with the values, whose result is [terms of the head, queries].

#include <cstdint>
#include <cstring>

#include "kernels.hpp"
#include "take.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr std::int64_t key_block = AttentionJob::keys;
constexpr std::int64_t panel_width = Panels::width;  // queries of a step, rows of a left block
constexpr std::int64_t chunk = Panels::chunk;
constexpr int query_vectors = static_cast<int>(panel_width) / float_lanes;

/// What a head of a sequence needs, one behind the other in the scratch. `chunks` is the head size
/// in steps of 32 terms.
struct AttentionBuffers {
  Left* keys;              // [blocks of 32 keys] as left sides
  Left* values;            // [chunks] left sides: 32 terms of the head, all keys
  std::uint16_t* query;    // a panel of 32 queries
  std::uint16_t* weights;  // a panel of 32 queries, a block of keys as terms
  float* scores;           // [keys of a block][32]
  float* sum;              // [terms of the head][32]
  std::uint32_t* rows;     // [32][16 chunks] words: 32 rows of the head, zeros around them
  std::uint32_t* turned;   // the same with rows and columns changed
  std::size_t size;

  AttentionBuffers(unsigned char* scratch, std::int64_t length, std::int64_t chunks) {
    const std::int64_t blocks = (length + chunk - 1) / chunk;
    const std::int64_t terms = chunks * chunk;
    unsigned char* place = scratch;
    take(place, keys, blocks * chunk * terms);
    take(place, values, blocks * chunk * terms);
    take(place, query, terms * panel_width);
    take(place, weights, key_block * panel_width);
    take(place, scores, key_block * panel_width);
    take(place, sum, terms * panel_width);
    take(place, rows, panel_width * terms);
    take(place, turned, panel_width * terms);
    size = static_cast<std::size_t>(place - scratch);
  }
};

/// 2^x; error 3e-6, a thousandth of what rounding the weights to bfloat16 brings; 0 below 2^-126.
inline Floats power_of_two(Floats x) {
  const Floats part = above_floor(x);
  Floats value = broadcast(AttentionJob::coefficients[0]);
  for (int i = 1; i < 5; ++i) {
    value = fused(value, part, broadcast(AttentionJob::coefficients[i]));
  }
  return times_two_to(value, x);
}

/// Copies 32 rows of a head, as far as there are any, and zeros around them; asks for the next 32,
/// which lie on pages of their own.
inline void copy_rows(const AttentionJob& job, const std::uint16_t* first, std::int64_t count,
                      std::int64_t chunks, std::uint32_t* rows) {
  constexpr std::int64_t words = chunk / 2;
  for (std::int64_t row = 0; row < panel_width; ++row) {
    const std::uint16_t* terms = first + row * job.qkv.row_stride;
    for (std::int64_t part = 0; part < chunks; ++part, rows += words, terms += chunk) {
      if (panel_width + row < count) {
        __builtin_prefetch(terms + panel_width * job.qkv.row_stride);
      }
      const std::int64_t there = row < count ? job.head_size - part * chunk : 0;
      if (there >= chunk) {
        std::memcpy(rows, terms, chunk * sizeof *terms);
        continue;
      }
      std::uint16_t some[chunk] = {};
      for (std::int64_t i = 0; i < there; ++i) {
        some[i] = terms[i];
      }
      std::memcpy(rows, some, sizeof some);
    }
  }
}

/// turned [words of a row][32] = the rows copied last.
inline void turn(const std::uint32_t* rows, std::int64_t chunks, std::uint32_t* turned) {
  constexpr std::int64_t words = chunk / 2;
  for (std::int64_t part = 0; part < chunks; ++part) {
    for (std::int64_t row = 0; row < panel_width; row += 16) {
      transpose(rows + row * chunks * words + part * words, chunks * words,
                turned + part * words * panel_width + row, panel_width);
    }
  }
}

/// Keys as left sides, and values, on their side, too.
inline void pack_sequence(const AttentionJob& job, std::int64_t first, std::int64_t length,
                          std::int64_t head, std::int64_t chunks, const AttentionBuffers& buffers) {
  constexpr std::int64_t words = chunk / 2;
  const std::int64_t blocks = (length + chunk - 1) / chunk;
  const std::int64_t inner = job.out.cols;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::uint16_t* key =
        job.qkv.data + (first + block * chunk) * job.qkv.row_stride + inner + head * job.head_size;
    const std::int64_t count = length - block * chunk;
    copy_rows(job, key, count, chunks, buffers.rows);
    Left* keys = buffers.keys + block * chunk * chunks * chunk;
    for (std::int64_t row = 0; row < chunk; ++row) {
      for (std::int64_t part = 0; part < chunks; ++part) {
        std::uint16_t terms[chunk];
        std::memcpy(terms, buffers.rows + (row * chunks + part) * words, sizeof terms);
        put_left(keys, chunks, row, part, terms);
      }
    }
    copy_rows(job, key + inner, count, chunks, buffers.rows);
    turn(buffers.rows, chunks, buffers.turned);
    for (std::int64_t part = 0; part < chunks; ++part) {
      Left* values = buffers.values + part * chunk * blocks * chunk;
      for (std::int64_t pair = 0; pair < words; ++pair) {
        const std::uint32_t* row = buffers.turned + (part * words + pair) * panel_width;
        std::uint16_t even[chunk];
        std::uint16_t odd[chunk];
        for (std::int64_t i = 0; i < chunk; ++i) {
          even[i] = static_cast<std::uint16_t>(row[i]);
          odd[i] = static_cast<std::uint16_t>(row[i] >> 16);
        }
        put_left(values, blocks, 2 * pair, block, even);
        put_left(values, blocks, 2 * pair + 1, block, odd);
      }
    }
  }
}

/// The running state of 32 queries.
struct Queries {
  alignas(64) float maximum[panel_width];  // of the scores times scale and log2 e, or nearly
  alignas(64) float total[panel_width];
  alignas(64) float shrink[panel_width];  // what the sums so far are multiplied by
};

/// The largest score of each query, in four chains: one would wait for itself.
inline Floats largest_of(const float* scores, std::int64_t keys) {
  Floats most[4];
  for (int i = 0; i < 4; ++i) {
    most[i] = load(scores + i * panel_width);
  }
  for (std::int64_t key = 4; key < keys; key += 4) {
    for (int i = 0; i < 4; ++i) {
      most[i] = larger(load(scores + (key + i) * panel_width), most[i]);
    }
  }
  return larger(larger(most[0], most[1]), larger(most[2], most[3]));
}

/// From the scores of one block of keys to weights; tells whether any sum has to shrink.
///
/// The maximum follows only where it has grown by more than 8: weights up to 2^8 are as exact, and
/// the sums then need not shrink in most blocks.
inline bool weigh(const AttentionBuffers& buffers, float scale, std::int64_t keys,
                  Queries& queries) {
  const Floats factor = broadcast(scale);
  std::uint32_t shrinks = 0;
  for (int v = 0; v < query_vectors; ++v) {
    const int lane = v * float_lanes;
    const float* scores = buffers.scores + lane;
    // Rounding keeps the order, so that scaling the largest is as good as scaling all.
    const Floats most = multiply(largest_of(scores, keys), factor);
    const Floats before = load(queries.maximum + lane);
    const Floats grown = add(before, broadcast(AttentionJob::growth));
    const Floats reached = where_above(most, grown, most, before);
    const Floats shrink = power_of_two(subtract(before, reached));
    shrinks |= positive(subtract(broadcast(1.0F), shrink));
    const Floats against = subtract(broadcast(0.0F), reached);
    Floats even = broadcast(0.0F);
    Floats odd = even;
    std::uint16_t* weights = buffers.weights + 2 * lane;
    for (std::int64_t key = 0; key < keys; key += 2) {
      const float* pair = scores + key * panel_width;
      const Floats first = power_of_two(fused(load(pair), factor, against));
      const Floats second = power_of_two(fused(load(pair + panel_width), factor, against));
      even = add(even, first);
      odd = add(odd, second);
      store_pairs(weights + key * panel_width, first, second);
    }
    const Floats total = load(queries.total + lane);
    store(queries.total + lane, fused(total, shrink, add(even, odd)));
    store(queries.maximum + lane, reached);
    store(queries.shrink + lane, shrink);
  }
  return shrinks != 0;
}

/// Scores of queries and keys that come later do not count; the last 32 keys are the queries' own.
inline void mask_later(float* scores, std::int64_t keys) {
  constexpr float none = -__builtin_inff();
  for (std::int64_t row = 1; row < panel_width; ++row) {
    float* place = scores + (keys - panel_width + row) * panel_width;
    for (std::int64_t i = 0; i < row; ++i) {
      place[i] = none;
    }
  }
}

/// Rounds sum / total to the rows of the output.
inline void write(const AttentionJob& job, const AttentionBuffers& buffers, const Queries& queries,
                  std::int64_t chunks, std::int64_t count, std::uint16_t* out) {
  const std::int64_t terms = chunks * chunk;
  alignas(64) float quotients[16][16];
  alignas(64) float rows[16][16];
  for (std::int64_t query = 0; query < panel_width && query < count; query += 16) {
    const std::int64_t there = count - query < 16 ? count - query : 16;
    for (std::int64_t term = 0; term < terms && term < job.head_size; term += 16) {
      for (std::int64_t i = 0; i < 16; ++i) {
        for (int lane = 0; lane < 16; lane += float_lanes) {
          const float* sum = buffers.sum + (term + i) * panel_width + query + lane;
          store(quotients[i] + lane, divide(load(sum), load(queries.total + query + lane)));
        }
      }
      std::uint32_t words[16][16];
      std::uint32_t turned[16][16];
      std::memcpy(words, quotients, sizeof words);
      transpose(words[0], 16, turned[0], 16);
      std::memcpy(rows, turned, sizeof rows);
      const std::int64_t columns = job.head_size - term < 16 ? job.head_size - term : 16;
      for (std::int64_t row = 0; row < there; ++row) {
        std::uint16_t rounded[16];
        for (int lane = 0; lane < 16; lane += float_lanes) {
          store_bfloat16(rounded + lane, load(rows[row] + lane));
        }
        std::uint16_t* to = out + (query + row) * job.out.row_stride + term;
        if (columns == 16) {
          std::memcpy(to, rounded, sizeof rounded);
          continue;
        }
        for (std::int64_t column = 0; column < columns; ++column) {
          to[column] = rounded[column];
        }
      }
    }
  }
}

}  // namespace

std::size_t attention_space(const AttentionJob& job, std::int64_t length) {
  return AttentionBuffers(nullptr, length, (job.head_size + chunk - 1) / chunk).size;
}

Isa attention(const AttentionJob& job, unsigned char* scratch, std::int64_t sequence,
              std::int64_t head) {
  const unsigned control = flush_denormals();
  Engine engine;
  engine.start();
  const std::int64_t first = job.starts[sequence];
  const std::int64_t length = job.starts[sequence + 1] - first;
  const std::int64_t chunks = (job.head_size + chunk - 1) / chunk;
  const std::int64_t blocks = (length + chunk - 1) / chunk;
  const AttentionBuffers buffers(scratch, length, chunks);
  pack_sequence(job, first, length, head, chunks, buffers);

  for (std::int64_t query = 0; query < length; query += panel_width) {
    copy_rows(job, job.qkv.data + (first + query) * job.qkv.row_stride + head * job.head_size,
              length - query, chunks, buffers.rows);
    turn(buffers.rows, chunks, buffers.turned);
    std::memcpy(buffers.query, buffers.turned,
                static_cast<std::size_t>(chunks * chunk * panel_width) * sizeof *buffers.query);
    Queries queries;
    for (std::int64_t i = 0; i < panel_width; ++i) {
      queries.maximum[i] = -__builtin_inff();
      queries.total[i] = 0.0F;
    }
    const std::int64_t behind = query + panel_width;  // keys that one of the queries sees
    for (std::int64_t key = 0; key < behind; key += key_block) {
      const std::int64_t keys = behind - key < key_block ? behind - key : key_block;
      for (std::int64_t row = 0; row < keys; row += chunk) {
        multiply_rows(engine, buffers.keys + (key + row) * chunks * chunk, chunks, buffers.query,
                      chunks, nullptr, buffers.scores + row * panel_width);
      }
      if (key + keys == behind) {
        mask_later(buffers.scores, keys);
      }
      if (weigh(buffers, job.scale, keys, queries) && key > 0) {
        for (std::int64_t term = 0; term < chunks * chunk; ++term) {
          float* sum = buffers.sum + term * panel_width;
          for (std::int64_t i = 0; i < panel_width; i += float_lanes) {
            store(sum + i, multiply(load(sum + i), load(queries.shrink + i)));
          }
        }
      }
      for (std::int64_t part = 0; part < chunks; ++part) {
        float* sum = buffers.sum + part * chunk * panel_width;
        Left* values = left_chunk(buffers.values + part * chunk * blocks * chunk, key / chunk);
        multiply_rows(engine, values, blocks, buffers.weights, keys / chunk,
                      key == 0 ? nullptr : sum, sum);
      }
    }
    write(job, buffers, queries, chunks, length - query,
          job.out.data + (first + query) * job.out.row_stride + head * job.head_size);
  }
  engine.stop();
  restore_control(control);
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
