#pragma once

#include <cstddef>
#include <cstdint>

#include "pyneurons/isa.hpp"
#include "pyneurons/linear.hpp"
#include "pyneurons/matrix_view.hpp"
#include "pyneurons/panels.hpp"
#include "pyneurons/segment_counts.hpp"
#include "pyneurons/strip_mask.hpp"

/// What the files of one instruction set and the rest of the core say to each other.
///
/// A kernel does the words [begin, end) of every row, at most `max_words` of them, and nothing
/// else: pieces of a job may run on any threads. It returns the instruction set that its own file
/// was compiled for.
namespace pyneurons {

struct WordRange {
  std::int64_t begin;
  std::int64_t end;
};

struct RowSource {
  MatrixView<const std::uint32_t> mask;
  const std::int32_t* order;  // or null: 0, 1, ...
  std::int64_t length;        // of the order, or the rows of the mask
};

struct SegmentCountsJob {
  RowSource rows;
  const std::int64_t* segments;
  Counters counts;
  static constexpr std::int64_t max_words = 128;
};

struct FiringRowsJob {
  RowSource rows;
  MatrixView<std::int64_t> found_rows;
  std::int64_t* found;
  static constexpr std::int64_t max_words = 32;
};

struct FirstSegmentsJob {
  RowSource rows;
  const std::int64_t* segments;
  std::int64_t n_segments;
  const std::int64_t* count;
  MatrixView<std::int32_t> found_segments;
  std::int64_t* found;
  static constexpr std::int64_t max_words = 32;
};

template <typename Id>
struct NgramKeysJob {
  const Id* ids;
  int n;
  int bits;
  std::uint32_t boundary;
  std::uint64_t* keys;
};

struct NgramCoverageJob {
  RowSource rows;
  const std::int64_t* segments;
  std::int64_t first;  // segments [first, last), each of two rows or more
  std::int64_t last;
  std::int64_t neurons;
  std::int32_t* histogram;  // scratch, [bins in use + 1, neurons]; row 0 is a dump
  static constexpr std::int64_t max_words = 32;
};

struct ListedNgram {
  std::int32_t neuron;
  std::int32_t segment;
  std::int32_t fires;
};

/// Where a kernel lists; it returns before the list could overflow.
struct NgramList {
  ListedNgram* entries;
  std::int64_t number;
  std::int64_t next;  // segment to go on with
};

struct NgramTriggersJob {
  RowSource rows;
  const std::int64_t* segments;
  std::int64_t last;  // segments [list->next, last)
  std::int64_t neurons;
  const std::int64_t* threshold;
  NgramList* list;
  static constexpr std::int64_t list_capacity = 1 << 15;
  static constexpr std::int64_t max_words = 32;
};

struct FfnEpilogueJob {
  MatrixView<float> z;
  StripMask mask;
  float* z_max;
  static constexpr std::int64_t max_words = 32;
};

/// A pair of terms of which one or both are not 0: its number, and both as bits of bfloat16.
struct LivePair {
  std::uint32_t pair;
  std::uint32_t values;
};

struct FfnJob {
  MatrixView<const std::uint16_t> x;
  Panels fc1;
  const float* fc1_bias;  // padded with zeros to whole panels
  Panels fc2;
  const float* fc2_bias;  // as many as columns of the residual
  MatrixView<float> residual;
  StripMask mask;
};

/// What a kernel wants for one call.
struct Space {
  std::int64_t rows;  // at most
  std::size_t bytes;  // of scratch
};

struct AttentionJob {
  static constexpr std::int64_t keys = 128;  // of one step
  static constexpr float most = 65536.0F;    // a sum of weights, from which on the maximum grows
  // 2^r = 1 + ..., for r from 0 to 1: least maximum of the relative error, 9e-5.
  static constexpr float coefficients[] = {0.07706704F, 0.227645F, 0.69511676F, 1.0F};
  MatrixView<const std::uint16_t> qkv;
  const std::int64_t* starts;
  std::int64_t head_size;
  float scale;  // times log2 e: weights are powers of two
  MatrixView<std::uint16_t> out;
};

struct LinearJob {
  MatrixView<const std::uint16_t> x;
  Panels weight;
  const float* bias;  // padded with zeros to whole panels
  MatrixView<std::uint16_t> out;
  MatrixView<float> residual;  // what is added to instead, where it has rows
};

struct LinearSplitJob {
  // Rows whose parts stay in L2, 576 KiB for 768 terms, while the panels of the weight pass.
  static constexpr std::int64_t block = 128;
  static constexpr std::int64_t sum_chunks = 8;      // 256 terms are added on their own
  static constexpr std::int64_t packed_chunks = 24;  // terms that are packed at a time
  MatrixView<const float> x;
  SplitPanels weight;
  const float* bias;  // padded with zeros to whole panels
  MatrixView<float> out;
};

struct LayerNormJob {
  static constexpr std::int64_t block = 64;  // rows
  static constexpr int sums = 64;            // that elements go to in turn
  MatrixView<const float> x;
  const float* weight;
  const float* bias;
  float epsilon;
  MatrixView<std::uint16_t> out;
};

/// Products of bfloat16 depend on the order of their sums, rounding to it is an instruction of
/// some: what computes them.
#define PYNEURONS_DECLARE_PRODUCTS(isa)                                                           \
  namespace isa {                                                                                 \
  Space ffn_space(const FfnJob& job);                                                             \
  Isa ffn(const FfnJob& job, unsigned char* scratch, std::int64_t begin, std::int64_t end,        \
          float* z_max, std::int64_t* wrong);                                                     \
  std::size_t attention_space(const AttentionJob& job, std::int64_t length);                      \
  Isa attention(const AttentionJob& job, unsigned char* scratch, std::int64_t sequence,           \
                std::int64_t head);                                                               \
  Space linear_space(const LinearJob& job);                                                       \
  Isa linear(const LinearJob& job, unsigned char* scratch, std::int64_t begin, std::int64_t end); \
  Isa layer_norm(const LayerNormJob& job, std::int64_t begin, std::int64_t end);                  \
  Isa linear_split(const LinearSplitJob& job, unsigned char* scratch, std::int64_t begin,         \
                   std::int64_t end);                                                             \
  }

#define PYNEURONS_DECLARE_KERNELS(isa)                                               \
  PYNEURONS_DECLARE_PRODUCTS(isa)                                                    \
  namespace isa {                                                                    \
  Isa segment_counts(const SegmentCountsJob& job, WordRange words);                  \
  Isa firing_rows(const FiringRowsJob& job, WordRange words);                        \
  Isa first_segments(const FirstSegmentsJob& job, WordRange words);                  \
  Isa ngram_keys_u16(const NgramKeysJob<std::uint16_t>& job, std::int64_t begin,     \
                     std::int64_t end);                                              \
  Isa ngram_keys_u32(const NgramKeysJob<std::uint32_t>& job, std::int64_t begin,     \
                     std::int64_t end);                                              \
  Isa ngram_coverage(const NgramCoverageJob& job, WordRange words);                  \
  Isa ngram_triggers(const NgramTriggersJob& job, WordRange words);                  \
  Isa ffn_epilogue(const FfnEpilogueJob& job, WordRange words, std::int64_t* wrong); \
  }

PYNEURONS_DECLARE_KERNELS(scalar)
PYNEURONS_DECLARE_KERNELS(avx2)
PYNEURONS_DECLARE_KERNELS(avx512)
PYNEURONS_DECLARE_PRODUCTS(avx512bf16)
PYNEURONS_DECLARE_PRODUCTS(amx)

#undef PYNEURONS_DECLARE_KERNELS
#undef PYNEURONS_DECLARE_PRODUCTS

/// The kernels of one instruction set.
struct Kernels {
  decltype(&scalar::segment_counts) segment_counts;
  decltype(&scalar::firing_rows) firing_rows;
  decltype(&scalar::first_segments) first_segments;
  decltype(&scalar::ngram_keys_u16) ngram_keys_u16;
  decltype(&scalar::ngram_keys_u32) ngram_keys_u32;
  decltype(&scalar::ngram_coverage) ngram_coverage;
  decltype(&scalar::ngram_triggers) ngram_triggers;
  decltype(&scalar::ffn_epilogue) ffn_epilogue;
  decltype(&scalar::layer_norm) layer_norm;
  decltype(&scalar::ffn_space) ffn_space;
  decltype(&scalar::ffn) ffn;
  decltype(&scalar::attention_space) attention_space;
  decltype(&scalar::attention) attention;
  decltype(&scalar::linear_space) linear_space;
  decltype(&scalar::linear) linear;
  decltype(&scalar::linear_split) linear_split;
};

}  // namespace pyneurons
