"""`firing_rows`: the first rows of every neuron in order, and 16 sampled ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from interleaved import Rival
from machine import BEST, CPP
from opt_shapes import random_bits
from pyneurons import ops, reference
from pyneurons.observers.firing import EXAMPLES

if TYPE_CHECKING:
    from interleaved import Interleaved

ROWS, WORDS = 131_072, 32
NEURONS = 32 * WORDS
SILENT = 8
"""Neurons that never fire: a pass has to go to the end for them."""

CASES = [
    (BEST, "in order", 1),
    (BEST, "sampled", EXAMPLES),
    *((backend, "sampled", EXAMPLES) for backend in CPP if backend != BEST),
]


@pytest.mark.parametrize(("backend", "ordered", "limit"), CASES)
def bench_firing_rows(
    compare: Interleaved, backend: str, ordered: str, limit: int, *, small: bool
) -> None:
    rows = 4096 if small else ROWS
    mask = random_bits(rows, WORDS)
    for neuron in range(0, NEURONS, NEURONS // SILENT):
        mask[:, neuron // 32] &= ~np.uint32(1 << neuron % 32)
    order = (
        np.random.default_rng(0).permutation(rows).astype(np.int32)
        if ordered == "sampled"
        else None
    )
    found_rows = np.empty((NEURONS, limit), dtype=np.int64)
    found = np.empty(NEURONS, dtype=np.int64)

    def ours() -> None:
        found[:] = 0
        ops.firing_rows(mask, order, found_rows, found, backend=backend)

    def naive(rows: int = 8192) -> np.ndarray:
        """[F, limit], -1 where there are no more; of the first rows alone."""
        fires = reference.unpack(mask if order is None else mask[order[:rows]], NEURONS)[:rows]
        answer = np.full((NEURONS, limit), -1, dtype=np.int64)
        for neuron in range(NEURONS):
            first = np.flatnonzero(fires[:, neuron])[:limit]
            answer[neuron, : first.size] = first if order is None else order[first]
        return answer

    found_rows[:] = -1
    ours()
    np.testing.assert_array_equal(found_rows, naive(rows))
    compare(
        ours,
        tokens=rows,
        rivals={"NumPy, flatnonzero of each neuron": Rival(naive, 8192)} if backend == BEST else {},
        budget_s=2.0,
        case=f"{NEURONS} neurons, {SILENT} of them silent, {rows:,} rows, {ordered}, "
        f"the first {limit}",
        backend=backend,
        threads=1,
    )
