#include "bit_planes.inl"

namespace pyneurons::PYNEURONS_ISA {
namespace {

template <typename Count>
void count_segments(const SegmentCountsJob& job, WordRange words) {
  Vec planes[vectors(SegmentCountsJob::max_words) * plane_slots];
  const std::int64_t neurons = neurons_of(words, job.counts.cols);
  Prefetcher prefetcher(job.rows, words, job.segments[0]);
  Count* counts = static_cast<Count*>(job.counts.data) + 32 * words.begin;
  for (std::int64_t s = 0; s < job.counts.rows; ++s, counts += job.counts.row_stride) {
    count_rows(job.segments[s], job.segments[s + 1], prefetcher, planes, neurons, counts);
  }
}

}  // namespace

Isa segment_counts(const SegmentCountsJob& job, WordRange words) {
  switch (job.counts.bytes) {
    case 1:
      count_segments<std::uint8_t>(job, words);
      break;
    case 2:
      count_segments<std::uint16_t>(job, words);
      break;
    case 4:
      count_segments<std::uint32_t>(job, words);
      break;
    default:
      count_segments<std::int64_t>(job, words);
  }
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
