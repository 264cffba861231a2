// Causal attention of one head of one sequence. Included once per instruction set, behind its
// products_*.inl.
//
// Queries go by 32, keys by 64. While the weights of 64 keys are made, the scores of the next 64
// are, and the products of the values with the weights of the block of 128 keys before, which do
// not depend on each other (Sapphire Rapids class, one after the other: 15 to 24 % slower at
// T = 2048, 6 to 16 % at 512). Little of it is the exponentials: fused multiply-adds of 512 bits
// hardly run beside tile products, additions do.

#include <cstdint>
#include <cstring>

#include "attention_weights.inl"
#include "kernels.hpp"
#include "take.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr std::int64_t key_block = AttentionJob::keys;
constexpr std::int64_t key_unit = unit_chunks * chunk;

/// What a head of a sequence needs, one behind the other in the scratch. `chunks` is the head size
/// in steps of 32 terms.
struct AttentionBuffers {
  std::uint16_t* keys;    // [blocks of 32 keys] panels: 32 keys, the terms of the head
  std::uint16_t* values;  // [chunks] panels: 32 terms of the head, all keys
  Left* query[2];         // 32 queries, the terms of the head: of this panel and of the next
  Left* weights[2];       // 32 queries, a block of keys: of this block and of the one before
  float* scores[2];       // [2][32 queries][32 keys]: of this unit and of the next
  float* block_scores;    // [4][32][32]: of a whole block, where a maximum has to grow
  float* sum;             // [chunks][32 queries][32 terms of the head]
  std::uint32_t* rows;    // [32][16 chunks] words: 32 rows of the head, zeros around them
  std::size_t size;

  AttentionBuffers(unsigned char* scratch, std::int64_t length, std::int64_t chunks) {
    const std::int64_t blocks = (length + chunk - 1) / chunk;
    const std::int64_t terms = chunks * chunk;
    unsigned char* place = scratch;
    take(place, keys, blocks * chunk * terms);
    take(place, values, blocks * chunk * terms);
    for (int i = 0; i < 2; ++i) {
      take(place, query[i], terms * panel_width);
      take(place, weights[i], key_block * panel_width);
      take(place, scores[i], unit_chunks * score_block);
    }
    take(place, block_scores, key_block * panel_width);
    take(place, sum, terms * panel_width);
    take(place, rows, panel_width * terms);
    size = static_cast<std::size_t>(place - scratch);
  }
};

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

/// Keys and values of the sequence as panels.
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
    std::uint16_t* keys = buffers.keys + block * chunk * chunks * chunk;
    for (std::int64_t part = 0; part < chunks; ++part) {
      alignas(64) std::uint32_t turned[words][panel_width];  // pairs of terms, keys
      for (std::int64_t row = 0; row < chunk; row += 16) {
        transpose(buffers.rows + (row * chunks + part) * words, chunks * words, turned[0] + row,
                  panel_width);
      }
      std::memcpy(keys + part * chunk * panel_width, turned, sizeof turned);
    }
    copy_rows(job, key + inner, count, chunks, buffers.rows);
    for (std::int64_t part = 0; part < chunks; ++part) {
      std::uint16_t* values = buffers.values + (part * blocks + block) * chunk * panel_width;
      for (std::int64_t row = 0; row < chunk; row += 2, values += 2 * panel_width) {
        std::uint16_t even[chunk];
        std::uint16_t odd[chunk];
        std::memcpy(even, buffers.rows + (row * chunks + part) * words, sizeof even);
        std::memcpy(odd, buffers.rows + ((row + 1) * chunks + part) * words, sizeof odd);
        for (std::int64_t i = 0; i < chunk; ++i) {
          values[2 * i] = even[i];
          values[2 * i + 1] = odd[i];
        }
      }
    }
  }
}

/// A head of a sequence on its way.
struct Head {
  const AttentionJob& job;
  const AttentionBuffers& buffers;
  std::int64_t first;  // row of the sequence
  std::int64_t length;
  std::int64_t head;
  std::int64_t chunks;
  std::int64_t blocks;  // of 32 keys
  Engine engine;
  Waiting waiting;
  Queries queries;

  /// The 32 queries from `query` on as a left side.
  void take_queries(std::int64_t query) {
    const std::int64_t there = length - query < panel_width ? length - query : panel_width;
    const MatrixView<const std::uint16_t> rows{
        job.qkv.data + (first + query) * job.qkv.row_stride + head * job.head_size, there,
        job.head_size, job.qkv.row_stride};
    pack_rows(rows, 0, there, chunks, buffers.query[query / panel_width % 2]);
  }

  /// Scores of 32 queries and the keys from `key` on, below `end`.
  template <typename Between>
  void score(std::int64_t query, std::int64_t key, std::int64_t end, float* scores,
             Between& between) {
    for (; key < end; key += chunk, scores += score_block) {
      multiply_rows(engine, buffers.query[query / panel_width % 2], chunks,
                    buffers.keys + key * chunks * chunk, chunks, nullptr, scores, waiting, between);
    }
  }

  /// Asks for the rows of the output of 32 queries, long before they are written: stores that miss
  /// hold up those of tiles behind them (Sapphire Rapids class, 8 sequences of 512: half the
  /// speed).
  void ask_for_output(std::int64_t query) {
    std::uint16_t* out = job.out.data + (first + query) * job.out.row_stride + head * job.head_size;
    for (std::int64_t row = 0; row < panel_width && query + row < length; ++row) {
      for (std::int64_t term = 0; term < job.head_size; term += chunk) {
        __builtin_prefetch(out + row * job.out.row_stride + term, 1);
      }
    }
  }

  void write(std::int64_t query, const float* inverse);
  void grow_maxima(std::int64_t query, std::int64_t key, std::int64_t end, Left* weights);
  void run();
};

/// Rounds sum / total to the rows of the output.
void Head::write(std::int64_t query, const float* inverse) {
  store_sums(engine, waiting);
  std::uint16_t* out = job.out.data + (first + query) * job.out.row_stride + head * job.head_size;
  for (std::int64_t row = 0; row < panel_width && query + row < length; ++row) {
    const Floats factor = broadcast(inverse[row]);
    for (std::int64_t term = 0; term < job.head_size; term += chunk) {
      const float* sum = buffers.sum + term * panel_width + row * chunk;
      std::uint16_t rounded[chunk];
      for (std::int64_t i = 0; i < chunk; i += 2 * float_lanes) {
        store_bfloat16(rounded + i, multiply(load(sum + i), factor),
                       multiply(load(sum + i + float_lanes), factor));
      }
      std::uint16_t* to = out + row * job.out.row_stride + term;
      if (job.head_size - term >= chunk) {
        std::memcpy(to, rounded, sizeof rounded);
        continue;
      }
      for (std::int64_t i = 0; i < job.head_size - term; ++i) {
        to[i] = rounded[i];
      }
    }
  }
}

/// Weighs a block of keys once more, after the maximum has grown of those queries whose weights
/// were too large.
void Head::grow_maxima(std::int64_t query, std::int64_t key, std::int64_t end, Left* weights) {
  Nothing nothing;
  score(query, key, end, buffers.block_scores, nothing);
  store_sums(engine, waiting);
  const std::int64_t keys = end - key;
  if (end == query + panel_width) {
    mask_later(buffers.block_scores + (keys - chunk) * panel_width);
  }
  for (std::int64_t row = 0; row < panel_width; ++row) {
    if (!too_large(queries.partial[row], 1)) {
      continue;
    }
    const float shrink =
        grow(queries, row, largest_of(buffers.block_scores, row, keys) * job.scale);
    for (std::int64_t part = 0; key > 0 && part < chunks; ++part) {
      float* sum = buffers.sum + part * score_block + row * chunk;
      for (std::int64_t i = 0; i < chunk; i += float_lanes) {
        store(sum + i, multiply(load(sum + i), broadcast(shrink)));
      }
    }
    for (std::int64_t part = 0; part < keys / chunk; ++part) {
      weigh_rows<1, 1>(buffers.block_scores + part * score_block, job.scale, row, part == 0,
                       queries, left_chunk(weights, part));
    }
  }
}

/// A block of keys whose weights are made and have yet to be multiplied with the values.
struct Weighed {
  const Left* weights;
  std::int64_t query;
  std::int64_t key;
  std::int64_t steps;
  std::int64_t part;  // of the terms of the head that is next; as many as there are: none
};

void Head::run() {
  const std::int64_t parts = chunks;
  Weighed weighed{nullptr, 0, 0, 0, parts};
  alignas(64) float inverse[panel_width];
  bool panel_ends = false;  // with the weighed block
  Weigher weigher{nullptr, nullptr, &queries, job.scale, false, false};
  const auto value_part = [&] {
    float* sum = buffers.sum + weighed.part * score_block;
    const std::uint16_t* values =
        buffers.values + (weighed.part * blocks + weighed.key / chunk) * score_block;
    multiply_rows(engine, weighed.weights, key_block / chunk, values, weighed.steps,
                  weighed.key == 0 ? nullptr : sum, sum, waiting, weigher);
    ++weighed.part;
    if (weighed.part == parts && panel_ends) {
      write(weighed.query, inverse);
    }
  };
  int unit = 0;  // which half of the scores and of the weights is this one's
  int block = 0;
  take_queries(0);
  score(0, 0, chunk, buffers.scores[0], weigher);
  store_sums(engine, waiting);
  for (std::int64_t query = 0; query < length; query += panel_width) {
    const std::int64_t end = query + panel_width;  // of the keys that one of the queries sees
    ask_for_output(query);
    for (std::int64_t key = 0; key < end; key += key_unit) {
      const std::int64_t begin = key / key_block * key_block;  // of the block
      const bool last = key + key_unit >= end;
      const bool block_ends = last || key + key_unit == begin + key_block;
      float* scores = buffers.scores[unit];
      if (last) {
        mask_later(scores + (end - key - chunk) * panel_width);
      }
      if (key == 0) {
        for (std::int64_t row = 0; row < panel_width; ++row) {
          queries.maximum[row] = scores[row * chunk] * job.scale;
        }
      }
      weigher.scores = scores;
      weigher.weights = left_chunk(buffers.weights[block], (key - begin) / chunk);
      weigher.whole = end - key >= key_unit;
      weigher.fresh = key == begin;
      weigher.row = 0;
      const std::int64_t next_query = last ? query + panel_width : query;
      if (last && next_query < length) {
        take_queries(next_query);
      }
      if (next_query < length) {
        const std::int64_t next = last ? 0 : key + key_unit;
        const std::int64_t behind = next_query + panel_width;
        score(next_query, next, next + key_unit < behind ? next + key_unit : behind,
              buffers.scores[1 - unit], weigher);
      }
      const std::int64_t before = weighed.part;
      while (weighed.part < parts && (block_ends || 2 * (weighed.part - before) < parts)) {
        value_part();
      }
      weigher.finish();
      if (weighed.part == before) {  // the scores of the next unit wait
        store_sums(engine, waiting);
      }
      unit = 1 - unit;
      if (!block_ends) {
        continue;
      }
      if (begin == 0) {
        std::memset(queries.total, 0, sizeof queries.total);
      }
      if (too_large(queries.partial[0], panel_width)) {
        const std::int64_t behind = key + key_unit < end ? key + key_unit : end;
        grow_maxima(query, begin, behind, buffers.weights[block]);
      }
      add_partial(queries);
      weighed = {buffers.weights[block], query, begin,
                 ((last ? end : key + key_unit) - begin) / chunk, 0};
      panel_ends = last;
      if (last) {
        invert_totals(queries, inverse);
      }
      block = 1 - block;
    }
  }
  store_sums(engine, waiting);
  while (weighed.part < parts) {
    value_part();
  }
}

}  // namespace

std::size_t attention_space(const AttentionJob& job, std::int64_t length) {
  return AttentionBuffers(nullptr, length, (job.head_size + chunk - 1) / chunk).size;
}

Isa attention(const AttentionJob& job, unsigned char* scratch, std::int64_t sequence,
              std::int64_t head) {
  const std::int64_t first = job.starts[sequence];
  const std::int64_t length = job.starts[sequence + 1] - first;
  if (length == 0) {
    return isa;
  }
  const unsigned control = flush_denormals();
  const std::int64_t chunks = (job.head_size + chunk - 1) / chunk;
  const AttentionBuffers buffers(scratch, length, chunks);
  Head run{job, buffers, first, length, head, chunks, (length + chunk - 1) / chunk, {}, {}, {}};
  pack_sequence(job, first, length, head, chunks, buffers);
  run.engine.start();
  run.run();
  run.engine.stop();
  restore_control(control);
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
