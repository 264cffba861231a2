"""What the n-gram ops read: a strip of bits and the index of Zipf's tokens, and naive answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from opt_shapes import TokenBits, corpus_of, zipf_rows
from pyneurons import ops, reference
from pyneurons.corpus import ngram_index
from pyneurons.observers.ngram import NgramObserver

ROWS = 1_048_576
"""What is timed: a strip of 128 MiB, which comes from memory as in a long scan."""

CHECKED_ROWS = 65_536
"""What every count is compared on, and what NumPy gets: 4 million pairs."""

CONTEXT = 2048
WORDS = 32  # a strip of a layer's mask, as the engine counts it
NEURONS = 32 * WORDS


@dataclass(frozen=True, eq=False)
class Inputs:
    """One strip, one n."""

    mask: np.ndarray
    observer: NgramObserver
    fires: np.ndarray  # A_n [F]

    @property
    def order(self) -> np.ndarray:
        """Rows, n-gram by n-gram."""
        return self.observer.index.order

    @property
    def segments(self) -> np.ndarray:
        """Bounds of the n-grams in the order."""
        return self.observer.index.segments

    def coverage_outputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return zeros for the histogram and the dense rows."""
        return (
            np.zeros((self.observer.bins + 1, NEURONS), dtype=np.int64),
            np.zeros((self.observer.n_large, NEURONS), dtype=np.int64),
        )

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (segment * F + neuron, ascending; count)."""
        return self.by_pairs()

    def by_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Count as a user would: `np.unique` over all (n-gram, neuron) pairs."""
        segment_of = np.repeat(np.arange(len(self.segments) - 1), np.diff(self.segments))
        place, neuron = np.nonzero(reference.unpack(self.mask, NEURONS)[self.order])
        return np.unique(segment_of[place] * NEURONS + neuron, return_counts=True)


@cache
def inputs(n: int, rows: int) -> Inputs:
    """Return a strip of that many rows, in sequences of `CONTEXT`."""
    corpus = corpus_of(zipf_rows(rows // CONTEXT, CONTEXT))
    mask = TokenBits(WORDS).rows(corpus.ids)
    index = ngram_index.build(corpus, n)
    fires = np.zeros((1, NEURONS), dtype=np.int64)
    ends = np.array([0, len(index.order)], dtype=np.int64)
    ops.segment_counts(mask, index.order, ends, fires)
    return Inputs(mask, NgramObserver.build(corpus, index), fires[0])
