"""Buffers of the engine: zeros, each its own, that begin where they should."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from pyneurons import _env
from pyneurons._memory import HUGE_PAGE, aligned_zeros, return_freed

SIZES = [0, 1, 129, HUGE_PAGE // 2 - 4, HUGE_PAGE // 2, HUGE_PAGE, HUGE_PAGE + 4]


@pytest.mark.parametrize("size", SIZES)
def test_zeros_on_128_bytes(size: int) -> None:
    count = size // 4
    values = aligned_zeros((count, 1), np.float32)
    assert values.shape == (count, 1)
    assert values.dtype == np.float32
    assert not values.any()
    assert count == 0 or values.ctypes.data % 128 == 0
    values[:] = 7
    assert not aligned_zeros((count, 1), np.float32).any()


def test_buffers_outlive_what_they_were_made_from() -> None:
    values = aligned_zeros((HUGE_PAGE,), np.uint8)[5:]
    values[:] = 3
    others = [aligned_zeros((HUGE_PAGE,), np.uint8) for _ in range(3)]
    assert (values == 3).all()
    assert not any(other.any() for other in others)


def test_freed_memory_goes_back_to_the_system() -> None:
    """Many small arrays, freed but for the last, which alone holds up the heap's top."""
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    arrays = [np.ones(1 << 13) for _ in range(2000)]  # 64 KiB each
    held = arrays.pop()
    before = _env.resident_bytes()
    arrays.clear()
    return_freed()
    after = _env.resident_bytes()
    assert before is not None
    assert after is not None
    assert before - after > 100 << 20
    assert held.sum() == 1 << 13
