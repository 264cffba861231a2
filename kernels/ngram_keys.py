"""The key of the n-gram that ends at each row."""

import triton
import triton.language as tl


@triton.jit
def mix(key, token):
    """One step of the hash: splitmix64 of ``key ^ (token + 1)``."""
    key = (key ^ (token + 1)) + 0x9E3779B97F4A7C15
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB
    return key ^ (key >> 31)


@triton.jit
def ngram_keys_kernel(
    ids_ptr,  # uint16 or uint32 [N]
    starts_ptr,  # int64 [S + 1]
    keys_ptr,  # uint64 [N]
    rows,
    sequences,
    boundary_id,
    N: tl.constexpr,
    BITS: tl.constexpr,
    STEPS: tl.constexpr,  # 2**STEPS > S
    BLOCK: tl.constexpr,
):
    """One program: BLOCK rows. Where each sequence starts is searched by halving, in cache."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    # The last start at or before the row: of several at one place, the last.
    low = tl.zeros([BLOCK], tl.int64)
    high = low + sequences
    for _ in range(STEPS):
        middle = (low + high + 1) // 2
        before = tl.load(starts_ptr + middle, mask=inside, other=0) <= row
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle - 1)
    start = tl.load(starts_ptr + low, mask=inside, other=0)

    whole = row - start >= N - 1
    key = tl.zeros([BLOCK], tl.uint64)
    for back in tl.static_range(N):
        token = tl.load(ids_ptr + row - (N - 1 - back), mask=inside & whole, other=0).to(tl.uint64)
        whole = whole & (token != boundary_id.to(tl.uint64))
        if N * BITS <= 64:
            key = (key << BITS) | token
        else:
            key = mix(key, token)
    none = tl.full([BLOCK], 0xFFFFFFFFFFFFFFFF, tl.uint64)
    if N * BITS > 64:
        key = tl.minimum(key, none - 1)
    tl.store(keys_ptr + row, tl.where(whole, key, none), mask=inside)
