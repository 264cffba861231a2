"""The segments in which each neuron fires often enough."""

import triton
import triton.language as tl

from pyneurons.kernels.bit_planes import add_bits, zero_planes


@triton.jit
def ngram_triggers_kernel(
    mask_ptr,  # int32 [N, W]
    order_ptr,  # int32 [M], read where HAS_ORDER
    begin_ptr,  # int64 [segments]
    length_ptr,  # int64 [segments]
    threshold_ptr,  # int64 [F]
    offsets_ptr,  # int64 [F + 1]
    found_ptr,  # int64 [F], accumulated into
    place_ptr,  # int32 [offsets[F]]: the place of a segment in begin_ptr
    fires_ptr,  # int64 [offsets[F]]
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

    Segments are shorter than ``1 << PLANES``. The list of a neuron is filled in no order; what finds no
    room there is counted all the same.
    """
    segment = first + tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    words = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    exists = words * 32 < neurons
    there = segment < stop
    begin = tl.load(begin_ptr + segment, mask=there, other=0)
    length = tl.load(length_ptr + segment, mask=there, other=0)

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

    # One bit of all words after the other: all of them together need more registers than there are.
    for bit in range(32):
        neuron = words * 32 + bit
        real = neuron < neurons
        threshold = tl.load(threshold_ptr + neuron, mask=real, other=0x7FFFFFFFFFFFFFFF)
        count = tl.zeros([LANES, BLOCK_W], tl.int32)
        for k in tl.static_range(PLANES):
            count += ((planes[k] >> bit) & 1) << k
        enough = (count.to(tl.int64) >= threshold[None, :]) & real[None, :]
        which = tl.broadcast_to(neuron[None, :], [LANES, BLOCK_W])
        k_th = tl.atomic_add(
            found_ptr + which, tl.full([LANES, BLOCK_W], 1, tl.int64), mask=enough, sem="relaxed"
        )
        at = tl.load(offsets_ptr + which, mask=enough, other=0) + k_th
        room = enough & (at < tl.load(offsets_ptr + which + 1, mask=enough, other=0))
        where = tl.broadcast_to(segment[:, None], [LANES, BLOCK_W])
        tl.store(place_ptr + at, where.to(tl.int32), mask=room)
        tl.store(fires_ptr + at, count.to(tl.int64), mask=room)
