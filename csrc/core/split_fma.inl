// Split products by fused multiply-adds in f32, in AMX's order of sums.

#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.hpp"
#include "split_parts.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

constexpr std::int64_t sum_terms = LinearSplitJob::sum_chunks * Panels::chunk;

/// A pair of parts, of x and of the weight, both from 0.
struct Parts {
  int x;
  int weight;
};

/// A few rows of x in three parts, [part][row][terms of a block].
template <int rows>
struct LeftParts {
  alignas(64) float value[3][rows][sum_terms];
};

template <int rows>
using RowSums = Floats[rows][product_vectors];

/// sum += 32 terms of one pair of parts: a chain over the even ones, one over the odd ones.
template <int rows>
inline void add_chunk(const LeftParts<rows>& left, Parts parts, std::int64_t term,
                      const std::uint16_t* right, RowSums<rows>& sum) {
  Floats even[rows][product_vectors];
  Floats odd[rows][product_vectors];
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < product_vectors; ++v) {
      even[r][v] = odd[r][v] = broadcast(0.0F);
    }
  }
  for (std::int64_t i = 0; i < Panels::chunk; i += 2, right += 2 * Panels::width) {
    for (int v = 0; v < product_vectors; ++v) {
      Floats first;
      Floats second;
      load_pairs(right + 2 * v * float_lanes, first, second);
      for (int r = 0; r < rows; ++r) {
        const float* factors = left.value[parts.x][r] + term + i;
        even[r][v] = fused(broadcast(factors[0]), first, even[r][v]);
        odd[r][v] = fused(broadcast(factors[1]), second, odd[r][v]);
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < product_vectors; ++v) {
      sum[r][v] = add(sum[r][v], add(even[r][v], odd[r][v]));
    }
  }
}

/// One block of terms of `rows` rows from `row` on; all columns.
template <int parts, int rows>
inline void block_of_terms(const LinearSplitJob& job, std::int64_t row, std::int64_t first_chunk) {
  constexpr Parts small[] = {{2, 0}, {1, 0}, {1, 1}, {0, 1}, {0, 2}};
  constexpr int number = 2 * parts - (parts == 3 ? 1 : 0);
  const Panels& shape = job.weight.part[0];
  const std::int64_t left_chunks = shape.chunks - first_chunk;
  const std::int64_t chunks =
      left_chunks < LinearSplitJob::sum_chunks ? left_chunks : LinearSplitJob::sum_chunks;
  LeftParts<rows> left;
  for (int r = 0; r < rows; ++r) {
    const std::int64_t from = first_chunk * Panels::chunk;
    const float* x = job.x.data + (row + r) * job.x.row_stride + from;
    for (std::int64_t i = 0; i < chunks * Panels::chunk; ++i) {
      float rest = from + i < job.x.cols ? x[i] : 0.0F;
      for (int part = 0; part < 3; ++part) {
        left.value[part][r][i] = leading(rest);
        rest -= leading(rest);
      }
    }
  }
  const bool last = chunks == left_chunks;
  for (std::int64_t panel = 0; panel < shape.panels; ++panel) {
    const std::int64_t columns = shape.columns - panel * Panels::width;
    for (std::int64_t column = 0; column < Panels::width && column < columns;
         column += product_vectors * float_lanes) {
      RowSums<rows> sum;
      for (int r = 0; r < rows; ++r) {
        for (int v = 0; v < product_vectors; ++v) {
          sum[r][v] = broadcast(0.0F);
        }
      }
      const auto right = [&](int part, std::int64_t chunk) {
        return job.weight.part[part].data + panel * shape.size + 2 * column +
               (first_chunk + chunk) * Panels::chunk * Panels::width;
      };
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        for (int i = 0; i < number; ++i) {
          add_chunk<rows>(left, small[i], chunk * Panels::chunk, right(small[i].weight, chunk),
                          sum);
        }
      }
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        add_chunk<rows>(left, {0, 0}, chunk * Panels::chunk, right(0, chunk), sum);
      }
      constexpr std::int64_t group = product_vectors * float_lanes;
      const std::int64_t there = columns - column < group ? columns - column : group;
      for (int r = 0; r < rows; ++r) {
        float* out = job.out.data + (row + r) * job.out.row_stride + panel * Panels::width + column;
        float before[group] = {};
        if (first_chunk > 0) {
          std::memcpy(before, out, static_cast<std::size_t>(there) * sizeof *out);
        }
        float all[group];
        for (int v = 0; v < product_vectors; ++v) {
          Floats value = add(load(before + v * float_lanes), sum[r][v]);
          if (last) {
            value = add(value, load(job.bias + panel * Panels::width + column + v * float_lanes));
          }
          store(all + v * float_lanes, value);
        }
        std::memcpy(out, all, static_cast<std::size_t>(there) * sizeof *out);
      }
    }
  }
}

template <int parts>
inline void split_rows(const LinearSplitJob& job, unsigned char* /*scratch*/, std::int64_t begin,
                       std::int64_t end) {
  for (std::int64_t chunk = 0; chunk < job.weight.part[0].chunks;
       chunk += LinearSplitJob::sum_chunks) {
    std::int64_t row = begin;
    for (; row + product_rows <= end; row += product_rows) {
      block_of_terms<parts, product_rows>(job, row, chunk);
    }
    for (; row < end; ++row) {
      block_of_terms<parts, 1>(job, row, chunk);
    }
  }
}

}  // namespace
}  // namespace pyneurons::PYNEURONS_ISA
