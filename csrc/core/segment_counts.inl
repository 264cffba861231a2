#include "bit_planes.inl"

namespace pyneurons::PYNEURONS_ISA {

Isa segment_counts(const SegmentCountsJob& job, WordRange words) {
  Vec planes[vectors(SegmentCountsJob::max_words) * plane_slots];
  const std::int64_t neurons = neurons_of(words, job.counts.cols);
  Prefetcher prefetcher(job.rows, words, job.segments[0]);
  for (std::int64_t s = 0; s < job.counts.rows; ++s) {
    std::int64_t* counts = job.counts.data + s * job.counts.row_stride + 32 * words.begin;
    count_rows(job.segments[s], job.segments[s + 1], prefetcher, planes, neurons, counts);
  }
  return isa;
}

}  // namespace pyneurons::PYNEURONS_ISA
