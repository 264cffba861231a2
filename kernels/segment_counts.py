"""How often each neuron fires in each segment of rows: positional popcount by carry-save adders."""

import triton
import triton.language as tl

from pyneurons.kernels.bit_planes import add_bits, full_add, zero_planes


@triton.jit
def segment_counts_kernel(
    mask_ptr,  # int32 [N, W]
    order_ptr,  # int32 [M], read where HAS_ORDER
    first_ptr,  # int64 [pieces], places in the order
    stop_ptr,  # int64 [pieces]
    segment_ptr,  # int64 [pieces]
    counts_ptr,  # integers [G, F]
    neurons,
    stride_mask,
    stride_counts,
    HAS_ORDER: tl.constexpr,
    ATOMIC: tl.constexpr,
    PLANES: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """One program: one piece of a segment, BLOCK_W words; each lane takes every LANES-th row.

    Eight rows are added before a plane of eights is counted, so that a word costs about 2 + PLANES / 4
    logical operations. A lane must have fewer than ``8 << PLANES`` rows.
    """
    piece = tl.program_id(0).to(tl.int64)
    words = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    exists = words * 32 < neurons
    lane = tl.arange(0, LANES)
    first = tl.load(first_ptr + piece)
    stop = tl.load(stop_ptr + piece)

    ones = tl.zeros([LANES, BLOCK_W], tl.int32)
    twos = tl.zeros([LANES, BLOCK_W], tl.int32)
    fours = tl.zeros([LANES, BLOCK_W], tl.int32)
    planes = zero_planes(ones, PLANES)
    for start in range(first, stop, 8 * LANES):
        loaded = ()
        for j in tl.static_range(8):
            place = start + j * LANES + lane
            inside = place < stop
            row = place
            if HAS_ORDER:
                row = tl.load(order_ptr + place, mask=inside, other=0).to(tl.int64)
            word = tl.load(
                mask_ptr + row[:, None] * stride_mask + words[None, :],
                mask=inside[:, None] & exists[None, :],
                other=0,
            )
            loaded = loaded + (word,)
        ones, twos_a = full_add(ones, loaded[0], loaded[1])
        ones, twos_b = full_add(ones, loaded[2], loaded[3])
        twos, fours_a = full_add(twos, twos_a, twos_b)
        ones, twos_a = full_add(ones, loaded[4], loaded[5])
        ones, twos_b = full_add(ones, loaded[6], loaded[7])
        twos, fours_b = full_add(twos, twos_a, twos_b)
        fours, eights = full_add(fours, fours_a, fours_b)
        planes = add_bits(planes, eights)
    planes = (ones, twos, fours) + planes

    bit = tl.arange(0, 32)
    count = tl.zeros([BLOCK_W, 32], tl.int32)
    for k in tl.static_range(PLANES + 3):
        # One plane after the other: all of them together need more registers than there are.
        count += tl.sum((planes[k][:, :, None] >> bit[None, None, :]) & 1, axis=0) << k
    neuron = words[:, None] * 32 + bit[None, :]
    segment = tl.load(segment_ptr + piece)
    at = counts_ptr + segment * stride_counts + neuron
    if ATOMIC:
        tl.atomic_add(
            at, count.to(counts_ptr.dtype.element_ty), mask=neuron < neurons, sem="relaxed"
        )
    else:
        before = tl.load(at, mask=neuron < neurons, other=0)
        tl.store(at, before + count.to(counts_ptr.dtype.element_ty), mask=neuron < neurons)
