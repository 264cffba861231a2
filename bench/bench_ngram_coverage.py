"""`ngram_coverage` beside counting (n-gram, neuron) pairs with NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from interleaved import Ceiling, Rival
from machine import BEST, CPP
from ngram_inputs import CHECKED_ROWS, CONTEXT, NEURONS, ROWS, WORDS, inputs
from pyneurons import ops
from roofline import ceilings, on

if TYPE_CHECKING:
    from interleaved import Interleaved
    from ngram_inputs import Inputs

CASES = [
    *((BEST, n, threads) for n in (1, 2, 3) for threads in (1, 2)),
    *((backend, 2, 1) for backend in CPP if backend != BEST),
]


def coverage_of(given: Inputs, backend: str, threads: int) -> tuple[np.ndarray, np.ndarray]:
    histogram, large = given.coverage_outputs()
    ops.ngram_coverage(
        given.mask,
        given.order,
        given.segments,
        given.fires,
        histogram,
        large,
        backend=backend,
        threads=threads,
    )
    return histogram, large


def check(given: Inputs, backend: str, threads: int) -> None:
    """Compare every count with those of the pairs."""
    histogram, large = coverage_of(given, backend, threads)
    pair, count = given.pairs
    segment, neuron = np.divmod(pair, NEURONS)
    lengths = np.diff(given.segments)
    few = lengths[segment] <= given.observer.bins
    expected = np.zeros_like(histogram)
    np.add.at(expected, (count[few], neuron[few]), 1)
    np.testing.assert_array_equal(histogram, expected)
    expected = np.zeros_like(large)
    expected[segment[~few] - (len(lengths) - len(large)), neuron[~few]] = count[~few]
    np.testing.assert_array_equal(large, expected)


@pytest.mark.parametrize(("backend", "n", "threads"), CASES)
def bench_ngram_coverage(
    compare: Interleaved, backend: str, n: int, threads: int, *, small: bool
) -> None:
    sample = inputs(n, 2 * CONTEXT if small else CHECKED_ROWS)
    check(sample, backend, threads)
    given = sample if small else inputs(n, ROWS)
    histogram, large = coverage_of(given, backend, threads)
    held = np.arange(len(histogram)) @ histogram + large.sum(axis=0)
    np.testing.assert_array_equal(held, given.fires)

    beside = backend == BEST
    lengths = np.diff(given.segments)
    rows_read = int(lengths[lengths > 1].sum())
    size = rows_read * 4 * WORDS
    reading = Ceiling(lambda: ceilings().read(given.mask, threads), size, "B")
    pairs = Rival(sample.by_pairs, len(sample.mask))
    compare(
        lambda: coverage_of(given, backend, threads),
        tokens=len(given.mask),
        rivals={"NumPy, unique over (n-gram, neuron)": pairs} if beside and threads == 1 else {},
        ceilings={f"reading as many bytes, {on(threads)}": reading} if beside else {},
        size=size,
        budget_s=3.0,
        case=f"n = {n}, {NEURONS} neurons, {len(given.mask):,} rows",
        n=n,
        ngrams=len(lengths),
        rows_read=rows_read,
        backend=backend,
        threads=threads,
    )
