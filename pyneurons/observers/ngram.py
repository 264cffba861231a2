"""Which n-grams trigger each neuron, exactly, without a (neuron, n-gram) table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pyneurons import ops
from pyneurons.covering import DEFAULT_SHARE, covering_number

if TYPE_CHECKING:
    from fractions import Fraction

    from pyneurons.corpus import Corpus
    from pyneurons.corpus.ngram_index import NgramIndex

TOP = 20
_NONE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class NgramCounts:
    """What one strip, or one layer, tells for one n.

    ``offsets [F+1], count, number`` is the histogram of n-gram counts in rows: neuron f fires
    ``count[i]`` times on each of ``number[i]`` n-grams, offsets[f] <= i < offsets[f+1].
    ``rows`` are the listed n-grams, sorted by neuron and rank.
    """

    n: int
    ngram_fires: np.ndarray
    offsets: np.ndarray
    count: np.ndarray
    number: np.ndarray
    coverage: np.ndarray
    rows: dict[str, np.ndarray] = field(default_factory=dict)


def choose_bins(occurrences: np.ndarray, number: np.ndarray) -> int:
    """Return the number of histogram bins that makes histogram and dense rows smallest together.

    N-grams that occur more often than ``bins`` get a dense row of counts each, so the size is
    (bins + #{g : occurrences(g) > bins}) * F; the best place is where the two terms cross.
    """
    bins = np.concatenate([[1], occurrences])
    rarer = np.concatenate([[0], np.cumsum(number)])
    above = rarer[-1] - rarer[np.searchsorted(occurrences, bins, side="right")]
    return int(bins[np.argmin(bins + above)])


def _rows_of_histogram(
    histogram: np.ndarray, large: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join histogram [bins+1, F] and dense rows [n_large, F] to (offsets, count, number)."""
    neurons = histogram.shape[1]
    neuron, count = np.nonzero(histogram.T)
    number = histogram.T[neuron, count]
    dense_neuron, dense_row = np.nonzero(large.T)
    dense_count = large.T[dense_neuron, dense_row]
    neuron = np.concatenate([neuron, dense_neuron])
    count = np.concatenate([count.astype(np.int64), dense_count])
    number = np.concatenate([number, np.ones(dense_count.size, dtype=np.int64)])
    order = np.lexsort((count, neuron))
    neuron, count, number = neuron[order], count[order], number[order]
    if neuron.size:
        first = np.flatnonzero(
            np.concatenate([[True], (np.diff(neuron) != 0) | (np.diff(count) != 0)])
        )
        neuron, count, number = neuron[first], count[first], np.add.reduceat(number, first)
    offsets = np.zeros(neurons + 1, dtype=np.int64)
    np.cumsum(np.bincount(neuron, minlength=neurons), out=offsets[1:])
    return offsets, count, number


def _list_threshold(
    offsets: np.ndarray, count: np.ndarray, number: np.ndarray, complete: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (threshold [F], rows [F]): the least count that is listed, and how many that makes.

    A complete list starts at 1; otherwise at the count of the 20th n-gram, all its ties included
    (they are cut to 20 afterwards, by n-gram id).
    """
    neurons = offsets.size - 1
    owner = np.repeat(np.arange(neurons), np.diff(offsets))
    total = np.zeros(neurons, dtype=np.int64)
    np.add.at(total, owner, number)
    before = np.cumsum(number) - number
    at_start = np.concatenate([before, [int(number.sum())]])[offsets[:-1]]
    at_least = total[owner] - (before - at_start[owner])  # n-grams with this count or more
    threshold = np.full(neurons, _NONE, dtype=np.int64)
    rows = np.zeros(neurons, dtype=np.int64)
    eligible = at_least >= np.minimum(TOP, total[owner])
    # Counts ascend within a neuron: the last eligible entry is the highest threshold that
    # still gives 20 n-grams (or all of them).
    for i in np.flatnonzero(eligible & np.append((owner[1:] != owner[:-1]) | ~eligible[1:], True)):
        threshold[owner[i]] = count[i]
        rows[owner[i]] = at_least[i]
    threshold[complete & (total > 0)] = 1
    rows[complete] = total[complete]
    return threshold, rows


@dataclass(frozen=True)
class NgramObserver:
    """Exact n-gram statistics of one n, for one corpus."""

    index: NgramIndex
    ids: np.ndarray
    bins: int
    n_large: int
    list_limit: int
    share: Fraction
    precision: Fraction

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        index: NgramIndex,
        *,
        list_limit: int = 200,
        share: Fraction = DEFAULT_SHARE,
        precision: Fraction = DEFAULT_SHARE,
    ) -> NgramObserver:
        """Choose the histogram's shape from the n-gram spectrum."""
        occurrences, number = index.spectrum
        bins = choose_bins(occurrences, number)
        n_large = int(number[occurrences > bins].sum())
        return cls(index, corpus.ids, bins, n_large, list_limit, share, precision)

    def observe(
        self, mask: np.ndarray, fires: np.ndarray, *, backend: str | None, threads: int
    ) -> NgramCounts:
        """Return the n-gram statistics of one strip.

        Parameters
        ----------
        mask : uint32 [N, W]
        fires : int64 [F]
            All fires of the strip's neurons; A_n is what remains without the fires at rows that
            end no countable n-gram.

        Notes
        -----
        Cost: one pass over the rows of n-grams that occur at least twice, and a second one for
        the lists. No structure grows with neurons x n-grams: the histogram has ``bins`` rows.
        """
        index, neurons = self.index, fires.size
        outside = np.zeros((1, neurons), dtype=np.int64)
        ops.segment_counts(
            mask,
            index.uncountable,
            np.array([0, index.uncountable.size], dtype=np.int64),
            outside,
            backend=backend,
            threads=threads,
        )
        ngram_fires = fires - outside[0]
        histogram = np.zeros((self.bins + 1, neurons), dtype=np.int64)
        large = np.zeros((self.n_large, neurons), dtype=np.int64)
        ops.ngram_coverage(
            mask,
            index.order,
            index.segments,
            ngram_fires,
            histogram,
            large,
            backend=backend,
            threads=threads,
        )
        offsets, count, number = _rows_of_histogram(histogram, large)
        del histogram, large
        coverage = covering_number(offsets, count, number, ngram_fires, self.share)
        complete = (coverage >= 1) & (coverage <= self.list_limit)
        threshold, listed = _list_threshold(offsets, count, number, complete)
        list_offsets = np.concatenate([[0], np.cumsum(listed)]).astype(np.int64)
        segment_of = np.empty(int(list_offsets[-1]), dtype=np.int32)
        segment_fires = np.empty(int(list_offsets[-1]), dtype=np.int64)
        ops.ngram_triggers(
            mask,
            index.order,
            index.segments,
            threshold,
            list_offsets,
            segment_of,
            segment_fires,
            backend=backend,
            threads=threads,
        )
        rows = self._rows(list_offsets, segment_of, segment_fires, complete)
        return NgramCounts(index.n, ngram_fires, offsets, count, number, coverage, rows)

    def _rows(
        self, offsets: np.ndarray, segment_of: np.ndarray, fires: np.ndarray, complete: np.ndarray
    ) -> dict[str, np.ndarray]:
        neuron = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
        identity = self.index.rank[segment_of]
        order = np.lexsort((identity, -fires, neuron))
        neuron, segment, fires = neuron[order], segment_of[order], fires[order]
        rank = np.arange(neuron.size) - offsets[neuron]
        keep = complete[neuron] | (rank < TOP)
        neuron, segment, fires, rank = neuron[keep], segment[keep], fires[keep], rank[keep]
        occurrences = self.index.segments[segment + 1] - self.index.segments[segment]
        return {
            "neuron": neuron.astype(np.int32),
            "tokens": self.index.tokens(segment, self.ids),
            "fires": fires,
            "occurrences": occurrences,
            "rank": rank.astype(np.int32),
            "covered": self.precision.denominator * fires >= self.precision.numerator * occurrences,
            "complete": complete[neuron],
        }
