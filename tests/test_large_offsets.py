"""Elements past the 2**31st, in memory that is only mapped: products of row and stride are of 64 bits."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import as_strided

import inputs
from pyneurons import ops, reference
from pyneurons.panels import Panels, SplitPanels

pytestmark = pytest.mark.also_on("triton")

FAR = 2**30 + 64
"""Elements from one row to the next: fits 32 bits, and three of them do not. Five rows of words take
17 GB of addresses and 20 kB of memory."""
ROWS = 5
NEURONS = 70
NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux, which `mmap` names from Python 3.13 on


def mapped(elements: int, dtype: Any) -> Any:
    """Zeros of which only what is touched takes memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    try:
        pages = mmap.mmap(-1, elements * np.dtype(dtype).itemsize, flags=flags)
    except OSError as error:
        pytest.skip(f"no address space for {elements} elements: {error}")
    return np.frombuffer(pages, dtype=dtype)


def far_apart(values: Any, fill: bool = True) -> Any:
    """The same matrix, its rows more than 2**31 elements apart."""
    rows, columns = values.shape
    flat = mapped((rows - 1) * FAR + columns, values.dtype)
    view = as_strided(flat, values.shape, (FAR * values.itemsize, values.itemsize), writeable=True)
    if fill:
        view[...] = values
    return view


@pytest.fixture(scope="module")
def fires() -> Any:
    return inputs.bits(ROWS, NEURONS, density=0.5)


@pytest.fixture(scope="module")
def mask(fires: Any) -> Any:
    return far_apart(reference.pack(fires))


def test_rows_of_a_mask(backend: str, fires: Any, mask: Any) -> None:
    order = np.array([4, 0, 2, 3], dtype=np.int32)
    segments = inputs.bounds([1, 3])
    visited = fires[order]
    counts = np.zeros((2, NEURONS), dtype=np.int64)
    ops.segment_counts(mask, order, segments, counts, backend=backend)
    np.testing.assert_array_equal(counts, [visited[:1].sum(axis=0), visited[1:].sum(axis=0)])

    histogram, large = (np.zeros((rows, NEURONS), dtype=np.int64) for rows in (3, 1))
    total = visited.sum(axis=0).astype(np.int64)
    ops.ngram_coverage(mask, order, segments, total, histogram, large, backend=backend)
    np.testing.assert_array_equal(large[0], visited[1:].sum(axis=0))
    np.testing.assert_array_equal(histogram[1], visited[0])

    threshold = np.ones(NEURONS, dtype=np.int64)
    offsets = inputs.bounds((counts > 0).sum(axis=0))
    segment_of = np.zeros(offsets[-1], dtype=np.int32)
    listed = np.zeros(offsets[-1], dtype=np.int64)
    ops.ngram_triggers(
        mask, order, segments, threshold, offsets, segment_of, listed, backend=backend
    )
    neuron, segment = np.nonzero(counts.T)
    np.testing.assert_array_equal(segment_of, segment)
    np.testing.assert_array_equal(listed, counts[segment, neuron])


@pytest.mark.not_on("triton")
def test_rows_of_a_mask_that_are_looked_for(backend: str, fires: Any, mask: Any) -> None:
    rows, found = np.full((NEURONS, ROWS), -1), np.zeros(NEURONS, dtype=np.int64)
    ops.firing_rows(mask, None, rows, found, backend=backend)
    for neuron in range(NEURONS):
        assert rows[neuron, : found[neuron]].tolist() == np.flatnonzero(fires[:, neuron]).tolist()
    segments = inputs.bounds([1] * ROWS)
    found_in = np.full((NEURONS, ROWS), -1, dtype=np.int32)
    found[:] = 0
    ops.first_segments(mask, None, segments, np.ones_like(found), found_in, found, backend=backend)
    np.testing.assert_array_equal(found_in, rows)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
def test_rows_of_counters(backend: str, fires: Any, dtype: Any) -> None:
    counts = far_apart(np.zeros((ROWS, NEURONS), dtype=dtype), fill=False)
    ops.segment_counts(
        reference.pack(fires), None, inputs.bounds([1] * ROWS), counts, backend=backend
    )
    np.testing.assert_array_equal(counts, fires)


@pytest.mark.not_on("triton")
def test_rows_of_histograms(backend: str, fires: Any) -> None:
    packed, segments = reference.pack(fires), inputs.bounds([ROWS])
    total = fires.sum(axis=0).astype(np.int64)
    histogram = far_apart(np.zeros((ROWS + 1, NEURONS), dtype=np.int64), fill=False)
    large = np.zeros((0, NEURONS), dtype=np.int64)
    ops.ngram_coverage(packed, None, segments, total, histogram, large, backend=backend)
    np.testing.assert_array_equal(histogram[1:], total == np.arange(1, ROWS + 1)[:, None])


@pytest.mark.parametrize("split", [False, True])
def test_rows_of_products(cpp_backend: str, split: bool) -> None:
    """Inputs and results of `linear`, which may have rows that lie apart."""
    dtype = torch.float32 if split else torch.bfloat16
    x, weight = inputs.lattice((ROWS, 40), 1), inputs.lattice((33, 40), 2)
    made = (SplitPanels if split else Panels).of(torch.from_numpy(weight).to(dtype))
    given, out = far(x, dtype), far(np.zeros((ROWS, 33)), dtype)
    ops.linear(given, made, None, out, backend=cpp_backend)
    np.testing.assert_array_equal(out.float().numpy(), x @ weight.T)


def far(values: Any, dtype: torch.dtype) -> torch.Tensor:
    rows, columns = values.shape
    flat = torch.from_numpy(mapped(((rows - 1) * FAR + columns) * dtype.itemsize, np.uint8))
    view = flat.view(dtype).as_strided((rows, columns), (FAR, 1))
    view.copy_(torch.from_numpy(values))
    return view


def test_strips_of_a_mask(backend: str) -> None:
    """What `ffn` writes of a layer, its strips far apart."""
    x, fc1 = inputs.lattice((ROWS, 8), 1), inputs.lattice((4 * 1024 + 70, 8), 2)
    expected = (x @ fc1.T) > 0
    flat = mapped(4 * FAR + ROWS * 32, np.uint32)
    mask = as_strided(flat, (5, ROWS, 32), (4 * FAR, 4 * 32, 4), writeable=True)
    ops.ffn(
        torch.from_numpy(x), torch.from_numpy(fc1), None, None, None, torch.zeros(ROWS, 8), mask,
        torch.full((len(fc1),), -torch.inf), backend=backend,
    )  # fmt: skip
    bits = np.unpackbits(np.ascontiguousarray(mask).view(np.uint8), axis=2, bitorder="little")
    np.testing.assert_array_equal(np.concatenate(list(bits), axis=1)[:, : len(fc1)], expected)
