"""The first rows, in a given order, on which each neuron fires."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["limit", "stride_rows"])
def firing_rows_kernel(
    mask_ptr,  # int32 [N, W]
    order_ptr,  # int32 [M], read where HAS_ORDER
    rows_ptr,  # int64 [F, limit]
    found_ptr,  # int64 [F], moved on
    length,
    neurons,
    limit,
    stride_mask,
    stride_rows,
    HAS_ORDER: tl.constexpr,
    SCAN: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One program: one word. It goes on until its neurons have ``limit`` rows each.

    SCAN rows at a time are looked through for a neuron that still lacks rows; only where there is one
    are they taken apart, ROWS at a time.
    """
    word = tl.program_id(0)
    bit = tl.arange(0, 32)
    neuron = word * 32 + bit
    real = neuron < neurons
    found = tl.load(found_ptr + neuron, mask=real, other=limit).to(tl.int32)
    lacking = tl.sum((found < limit).to(tl.int32) << bit, axis=0)
    start = tl.full([], 0, tl.int64)
    while (start < length) & (lacking != 0):
        place = start + tl.arange(0, SCAN)
        inside = place < length
        row = place
        if HAS_ORDER:
            row = tl.load(order_ptr + place, mask=inside, other=0).to(tl.int64)
        bits = tl.load(mask_ptr + row * stride_mask + word, mask=inside, other=0)
        if tl.max(((bits & lacking) != 0).to(tl.int32), axis=0) != 0:
            for part in range(SCAN // ROWS):
                at_part = start + part * ROWS + tl.arange(0, ROWS)
                in_part = at_part < length
                part_row = at_part
                if HAS_ORDER:
                    part_row = tl.load(order_ptr + at_part, mask=in_part, other=0).to(tl.int64)
                word_bits = tl.load(mask_ptr + part_row * stride_mask + word, mask=in_part, other=0)
                fires = ((word_bits & lacking)[:, None] >> bit[None, :]) & 1
                at = found[None, :] + tl.cumsum(fires, axis=0) - fires
                tl.store(
                    rows_ptr + neuron[None, :].to(tl.int64) * stride_rows + at,
                    tl.broadcast_to(part_row[:, None], [ROWS, 32]),
                    mask=(fires != 0) & (at < limit),
                )
                found = tl.minimum(found + tl.sum(fires, axis=0), limit)
                lacking = tl.sum((found < limit).to(tl.int32) << bit, axis=0)
        start += SCAN
    tl.store(found_ptr + neuron, found.to(tl.int64), mask=real)
