"""`segment_counts` against reading the same bytes: in cache, from memory, rows out of order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from interleaved import Ceiling, Rival
from machine import BEST, CPP
from opt_shapes import random_bits
from pyneurons import backends, ops, reference
from pyneurons._memory import aligned_zeros
from roofline import MEMORY_BYTES, ceilings, on

if TYPE_CHECKING:
    from interleaved import Interleaved

WORDS = 32  # a strip of a layer's mask, as the engine counts it
NEURONS = 32 * WORDS
CONTEXT = 2048
BLOCK = 4 * CONTEXT
"""Rows of random bits, 1 MiB, in L2, of which a larger mask is made: so its counts are known."""

# Rows in order, by position (sequence after sequence), and at random.
ORDERS = ("in order", "by position", "shuffled")
PLACES = ("cache", "memory")
CASES = [
    *((BEST, place, order, 1) for place in PLACES for order in ORDERS),
    (BEST, "memory", "in order", 2),
    (BEST, "memory", "by position", 2),
    *((backend, "cache", "in order", 1) for backend in CPP if backend != BEST),
]


@pytest.fixture(scope="module")
def block() -> np.ndarray:
    return random_bits(BLOCK, WORDS)


@pytest.fixture(scope="module")
def from_memory(block: np.ndarray, *, small: bool) -> np.ndarray:
    """The block again and again, in memory such as the engine's masks have.

    A row is two cache lines there. Where the allocator begins 16 bytes later, it is parts of
    three, and shuffled rows come at 25 % of the read bandwidth, not 34. Nor can they come at much
    more: only to fetch such rows, with prefetches and no counting, reaches 35 % (Sapphire Rapids
    class, virtual machine, huge pages; 22 % in small ones).
    """
    copies = 2 if small else MEMORY_BYTES // block.nbytes
    mask = aligned_zeros((copies * len(block), block.shape[1]), np.uint32)
    mask.reshape(copies, *block.shape)[:] = block
    return mask


@pytest.mark.parametrize(("backend", "place", "ordered", "threads"), CASES)
def bench_segment_counts(
    compare: Interleaved,
    block: np.ndarray,
    from_memory: np.ndarray,
    backend: str,
    place: str,
    ordered: str,
    threads: int,
) -> None:
    mask = block if place == "cache" else from_memory
    rows = len(mask)
    sequences = rows // CONTEXT
    order = None
    segments = np.array([0, rows], dtype=np.int64)
    chosen = backends.resolve(backend)
    fires = reference.unpack(block, NEURONS)
    expected = fires.sum(axis=0, keepdims=True) * (rows // BLOCK)
    if ordered == "by position":
        order = np.arange(rows, dtype=np.int32).reshape(sequences, CONTEXT).T.reshape(-1).copy()
        segments = np.arange(CONTEXT + 1, dtype=np.int64) * sequences
        expected = fires.reshape(-1, CONTEXT, NEURONS).sum(axis=0) * (rows // BLOCK)
    elif ordered == "shuffled":
        order = np.random.default_rng(1).permutation(rows).astype(np.int32)
    counts = np.zeros((len(segments) - 1, NEURONS), dtype=np.int64)

    def ours() -> None:
        ops.segment_counts(mask, order, segments, counts, backend=backend, threads=threads)

    def kernel() -> None:
        """Without the checks of `ops`, which take longer than counting 1 MiB from a cache."""
        chosen.segment_counts(mask, order, segments, counts, threads=threads)

    def naive() -> np.ndarray:
        return np.unpackbits(block.view(np.uint8), axis=1, bitorder="little").sum(axis=0)

    ours()
    np.testing.assert_array_equal(counts, expected)

    beside = backend == BEST
    reading = Ceiling(lambda: ceilings().read(mask, threads), mask.nbytes, "B")
    compare(
        kernel if place == "cache" else ours,
        tokens=rows,
        rivals={"NumPy, unpackbits and sum": Rival(naive, BLOCK)} if beside else {},
        ceilings={f"reading the same bytes, {on(threads)}": reading} if beside else {},
        size=mask.nbytes,
        budget_s=2.0,
        case=f"{NEURONS} neurons, {rows:,} rows, {ordered}, "
        + ("in cache" if place == "cache" else "from memory"),
        place=place,
        timed="the kernel" if place == "cache" else "the op",
        ordered=ordered,
        backend=backend,
        threads=threads,
    )
