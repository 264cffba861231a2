"""On how many n-grams each neuron fires exactly c times."""

import triton
import triton.language as tl

from pyneurons.kernels.bit_planes import add_bits, zero_planes


@triton.jit
def ngram_coverage_kernel(
    mask_ptr,  # int32 [N, W]
    order_ptr,  # int32 [M], read where HAS_ORDER
    segments_ptr,  # int64 [G + 1]
    histogram_ptr,  # int32 [bins + 1, F], contiguous, accumulated into
    first,
    stop,
    neurons,
    stride_mask,
    HAS_ORDER: tl.constexpr,
    PLANES: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One program: LANES of the segments first..stop - 1, BLOCK_W words; each lane has one segment.

    Segments are shorter than ``1 << PLANES``, and in order of length, so that lanes end nearly
    together. A neuron that fires in a segment costs one atomic addition.
    """
    segment = first + tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    words = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    exists = words * 32 < neurons
    there = segment < stop
    begin = tl.load(segments_ptr + segment, mask=there, other=0)
    length = tl.load(segments_ptr + segment + 1, mask=there, other=0) - begin

    planes = zero_planes(tl.zeros([LANES, BLOCK_W], tl.int32), PLANES)
    for i in range(tl.max(length, axis=0)):
        inside = i < length
        row = begin + i
        if HAS_ORDER:
            row = tl.load(order_ptr + row, mask=inside, other=0).to(tl.int64)
        word = tl.load(
            mask_ptr + row[:, None] * stride_mask + words[None, :],
            mask=inside[:, None] & exists[None, :],
            other=0,
        )
        planes = add_bits(planes, word)

    bit = tl.arange(0, 32)
    count = tl.zeros([LANES, BLOCK_W, 32], tl.int32)
    for k in tl.static_range(PLANES):
        count += ((planes[k][:, :, None] >> bit[None, None, :]) & 1) << k
    neuron = (words[:, None] * 32 + bit[None, :])[None, :, :]
    at = histogram_ptr + count.to(tl.int64) * neurons + neuron
    tl.atomic_add(at, 1, mask=(count > 0) & (neuron < neurons), sem="relaxed")
