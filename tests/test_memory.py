"""Buffers of the engine: zeros, each its own, that begin where they should."""

from __future__ import annotations

import numpy as np
import pytest

from pyneurons._memory import HUGE_PAGE, aligned_zeros

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
