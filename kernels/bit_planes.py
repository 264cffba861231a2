"""Counters in bit planes: bit b of plane k is bit k of the counter of bit b."""

import triton
import triton.language as tl


@triton.jit
def zero_planes(like, PLANES: tl.constexpr):
    planes = ()
    for _ in tl.static_range(PLANES):
        planes = planes + (tl.zeros_like(like),)
    return planes


@triton.jit
def add_bits(planes, bits):
    """Count up where a bit is set; what the last plane carries is lost."""
    added = ()
    for k in tl.static_range(len(planes)):
        added = added + (planes[k] ^ bits,)
        bits = planes[k] & bits
    return added


@triton.jit
def full_add(a, b, c):
    """Return the low and the high bit of the sum of three bits."""
    half = a ^ b
    return half ^ c, (a & b) | (half & c)
