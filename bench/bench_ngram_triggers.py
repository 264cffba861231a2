"""`ngram_triggers`: the lists of n-grams on which each neuron fires often enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from interleaved import Ceiling
from machine import BEST, CPP
from ngram_inputs import CHECKED_ROWS, CONTEXT, NEURONS, ROWS, WORDS, inputs
from pyneurons import ops
from roofline import ceilings, on

if TYPE_CHECKING:
    from interleaved import Interleaved
    from ngram_inputs import Inputs

LISTED = 20
"""N-grams that the engine lists of every neuron."""

CASES = [
    *((BEST, n, threads) for n in (1, 2, 3) for threads in (1, 2)),
    *((backend, 2, 1) for backend in CPP if backend != BEST),
]


class Lists:
    """What the engine asks for: of each neuron the first n-grams by fires, with all ties."""

    def __init__(self, given: Inputs) -> None:
        self.given = given
        histogram, large = given.coverage_outputs()
        ops.ngram_coverage(given.mask, given.order, given.segments, given.fires, histogram, large)
        # The engine has counted the most frequent n-grams before; it lists from the others.
        self.few = len(given.segments) - 1 - len(large)
        at_least = np.cumsum(histogram[::-1], axis=0)[::-1]  # n-grams with this many fires or more
        count = np.arange(len(histogram))[:, np.newaxis]
        self.threshold = np.maximum(1, np.where(at_least >= LISTED, count, 0).max(axis=0))
        listed = at_least[self.threshold, np.arange(NEURONS)]
        self.offsets = np.concatenate([[0], np.cumsum(listed)])
        self.segment_of = np.empty(int(self.offsets[-1]), dtype=np.int32)
        self.fires = np.empty(int(self.offsets[-1]), dtype=np.int64)

    def run(self, backend: str, threads: int) -> None:
        ops.ngram_triggers(
            self.given.mask,
            self.given.order,
            self.given.segments[: self.few + 1],
            self.threshold,
            self.offsets,
            self.segment_of,
            self.fires,
            backend=backend,
            threads=threads,
        )

    def check(self) -> None:
        """Compare both lists with those of the pairs."""
        pair, count = self.given.pairs
        segment, neuron = np.divmod(pair, NEURONS)
        listed = np.flatnonzero((segment < self.few) & (count >= self.threshold[neuron]))
        order = listed[np.lexsort((segment[listed], neuron[listed]))]
        np.testing.assert_array_equal(self.segment_of, segment[order])
        np.testing.assert_array_equal(self.fires, count[order])


@pytest.mark.parametrize(("backend", "n", "threads"), CASES)
def bench_ngram_triggers(
    compare: Interleaved, backend: str, n: int, threads: int, *, small: bool
) -> None:
    lists = Lists(inputs(n, 2 * CONTEXT if small else CHECKED_ROWS))
    lists.run(backend, threads)
    lists.check()
    lists = lists if small else Lists(inputs(n, ROWS))
    given = lists.given

    lengths = np.diff(given.segments[: lists.few + 1])
    size = int(lengths[lengths >= lists.threshold.min()].sum()) * 4 * WORDS
    reading = Ceiling(lambda: ceilings().read(given.mask, threads), size, "B")
    compare(
        lambda: lists.run(backend, threads),
        tokens=len(given.mask),
        ceilings={f"reading as many bytes, {on(threads)}": reading} if backend == BEST else {},
        size=size,
        budget_s=2.0,
        case=f"n = {n}, {NEURONS} neurons, {len(given.mask):,} rows, the first {LISTED} and ties",
        n=n,
        listed=int(lists.offsets[-1]),
        backend=backend,
        threads=threads,
    )
