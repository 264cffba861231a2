"""`first_segments`: the first 20 n-grams, of those whose ids are lowest, with equal counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from interleaved import Rival
from machine import BEST, CPP
from opt_shapes import random_bits
from pyneurons import ops, reference

if TYPE_CHECKING:
    from interleaved import Interleaved

NGRAMS, WORDS, LIMIT = 65_536, 32, 20
NEURONS = 32 * WORDS


@pytest.mark.parametrize("backend", [BEST, *(other for other in CPP if other != BEST)])
def bench_first_segments(compare: Interleaved, backend: str, *, small: bool) -> None:
    n_grams = 2048 if small else NGRAMS
    lengths = np.minimum(np.random.default_rng(0).zipf(3.0, n_grams), 15)
    segments = np.concatenate([[0], np.cumsum(lengths)])
    rows = int(segments[-1])
    mask = random_bits(rows, WORDS)
    order = np.random.default_rng(1).permutation(rows).astype(np.int32)
    count = np.full(NEURONS, 2, dtype=np.int64)
    found_segments = np.empty((NEURONS, LIMIT), dtype=np.int32)
    found = np.empty(NEURONS, dtype=np.int64)

    def ours() -> None:
        found[:] = 0
        ops.first_segments(mask, order, segments, count, found_segments, found, backend=backend)

    def naive() -> np.ndarray:
        """[F, limit], -1 where there are no more."""
        fires = reference.unpack(mask[order], NEURONS).astype(np.int32)
        counts = np.add.reduceat(fires, segments[:-1], axis=0)
        answer = np.full((NEURONS, LIMIT), -1, dtype=np.int32)
        for neuron in range(NEURONS):
            first = np.flatnonzero(counts[:, neuron] == 2)[:LIMIT]
            answer[neuron, : first.size] = first
        return answer

    found_segments[:] = -1
    ours()
    np.testing.assert_array_equal(found_segments, naive())
    compare(
        ours,
        tokens=rows,
        rivals={"NumPy, add.reduceat and flatnonzero": Rival(naive, rows)}
        if backend == BEST
        else {},
        budget_s=2.0,
        case=f"{NEURONS} neurons, {n_grams:,} n-grams, the first {LIMIT} with 2 fires",
        backend=backend,
        threads=1,
    )
