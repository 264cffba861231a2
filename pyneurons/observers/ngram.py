"""Which n-grams trigger each neuron, exactly, without a (neuron, n-gram) table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pyneurons import _core, ops
from pyneurons.covering import DEFAULT_SHARE, covering_number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

    from pyneurons.corpus import Corpus
    from pyneurons.corpus.ngram_index import KeptIndex, NgramIndex

TOP = 20
_NONE = np.iinfo(np.int64).max
# What it costs to look at one n-gram for all neurons of a strip, in n-grams that are listed.
_LOOK_COST = 2
_LOOK_NGRAMS = 1 << 16  # at a time
_LOOK_ROWS = 1 << 17  # of the first ones, which are kept at hand, at most
_SURE = 2  # as many n-grams at hand as are expected to hold those that are looked for


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


@dataclass(frozen=True)
class _Wanted:
    """Which n-grams are listed of each neuron, [F] each.

    Those on which it fires ``threshold`` times or more, ``listed`` in all. Where ``ties`` is above
    0, also the first ``ties`` in the order of ids among those with exactly ``threshold - 1`` fires.
    """

    threshold: np.ndarray
    listed: np.ndarray
    ties: np.ndarray


def _wanted(
    offsets: np.ndarray,
    count: np.ndarray,
    number: np.ndarray,
    complete: np.ndarray,
    ngrams: int,
    at_hand: int,
) -> _Wanted:
    """Return what is listed: of complete neurons all, of others 20, ties in the order of ids.

    Equal counts are many where counts are small. They are all listed, and cut to 20 afterwards,
    only where that is cheaper than to look through the ``ngrams`` in the order of their ids, and
    where those that are ``at_hand`` will do.
    """
    neurons = offsets.size - 1
    summed = np.concatenate([[0], np.cumsum(number)])
    end = summed[offsets[1:]]
    total = end - summed[offsets[:-1]]
    threshold = np.full(neurons, _NONE, dtype=np.int64)
    listed = np.zeros(neurons, dtype=np.int64)
    equal = np.zeros(neurons, dtype=np.int64)
    # Counts ascend within a neuron: the last entry with 20 n-grams (or all of them) from it on is
    # the highest threshold that still gives as many. Entry i has end - summed[i], and the sums
    # ascend over all neurons: one search in them instead of passes over the entries.
    owner = np.flatnonzero(total)
    enough = end[owner] - np.minimum(TOP, total[owner])
    last = np.searchsorted(summed, enough, side="right") - 1
    threshold[owner], listed[owner], equal[owner] = (
        count[last],
        end[owner] - summed[last],
        number[last],
    )
    threshold[complete & (total > 0)] = 1
    listed[complete] = total[complete]
    equal[complete | (listed <= TOP)] = 0

    equal[at_hand * equal < _SURE * TOP * ngrams] = 0
    sizes = np.sort(equal[equal > 0])
    ties = np.zeros(neurons, dtype=np.int64)
    if sizes.size:
        # cost[i]: the i neurons with the fewest equal counts list them, the others look.
        looking = np.append(_LOOK_COST * TOP * ngrams / sizes, 0)
        cost = np.concatenate([[0], np.cumsum(sizes)]) + looking
        best = int(np.argmin(cost))
        looks = equal >= sizes[best] if best < sizes.size else np.zeros(neurons, dtype=np.bool_)
        listed[looks] -= equal[looks]
        ties[looks] = TOP - listed[looks]
        threshold[looks] += 1
    return _Wanted(threshold, listed, ties)


def _order(neuron: np.ndarray, fires: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return what sorts by neuron, then from many fires to few, then by rank."""
    most = int(fires.max(initial=0))
    high = int(neuron.max(initial=0)).bit_length()
    middle, low = most.bit_length(), int(rank.max(initial=0)).bit_length()
    if high + middle + low < 64:
        # All three in one number: a fifth of the time.
        return np.argsort((neuron << middle | (most - fires)) << low | rank)
    return np.lexsort((rank, -fires, neuron))


@dataclass(frozen=True)
class _ById:
    """N-grams whose ids follow each other, with their rows."""

    segments: np.ndarray  # in the order of ids
    order: np.ndarray  # their rows
    bounds: np.ndarray  # of each in these

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return self.segments.nbytes + self.order.nbytes + self.bounds.nbytes

    @classmethod
    def of(cls, index: NgramIndex, first: int, last: int, most_rows: int | None = None) -> _ById:
        """Gather the n-grams of the ids [first, last), or the first of them with so many rows."""
        segments = np.flatnonzero((index.rank >= first) & (index.rank < last))
        segments = segments[np.argsort(index.rank[segments])]
        bounds = np.concatenate([[0], np.cumsum(index.lengths(segments))])
        if most_rows is not None:
            kept = int(np.searchsorted(bounds, most_rows, side="right")) - 1
            segments, bounds = segments[:kept], bounds[: kept + 1]
        place = np.repeat(index.segments[segments] - bounds[:-1], np.diff(bounds))
        return cls(segments, index.order[place + np.arange(place.size)], bounds)


def _by_id(index: NgramIndex, first: _ById) -> Iterator[_ById]:
    """Yield all n-grams in the order of their ids, those that are at hand first."""
    yield first
    for start in range(first.segments.size, index.rank.size, _LOOK_NGRAMS):
        yield _ById.of(index, start, start + _LOOK_NGRAMS)


@dataclass(frozen=True)
class NgramObserver:
    """Exact n-gram statistics of one n, for one corpus."""

    index: KeptIndex
    first: _ById
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
        index: KeptIndex,
        *,
        list_limit: int = 200,
        share: Fraction = DEFAULT_SHARE,
        precision: Fraction = DEFAULT_SHARE,
    ) -> NgramObserver:
        """Choose the histogram's shape from the n-gram spectrum."""
        occurrences, number = index.spectrum
        bins = choose_bins(occurrences, number)
        n_large = int(number[occurrences > bins].sum())
        first = _ById.of(index.load(), 0, _LOOK_NGRAMS, _LOOK_ROWS)
        return cls(index, first, corpus.ids, bins, n_large, list_limit, share, precision)

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
        index, neurons = self.index.load(), fires.size
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
        offsets, count, number = _core.histogram_entries(histogram, large, threads)
        del histogram
        coverage = covering_number(offsets, count, number, ngram_fires, self.share)
        complete = (coverage >= 1) & (coverage <= self.list_limit)
        wanted = _wanted(
            offsets, count, number, complete, index.rank.size, self.first.segments.size
        )
        threshold = wanted.threshold
        # The counts of the most frequent n-grams are known: they need no second pass.
        large_listed = large >= threshold
        few = len(index.segments) - 1 - self.n_large
        few_offsets = np.concatenate([[0], np.cumsum(wanted.listed - large_listed.sum(axis=0))])
        segment_of = np.empty(int(few_offsets[-1]), dtype=np.int32)
        segment_fires = np.empty(int(few_offsets[-1]), dtype=np.int64)
        ops.ngram_triggers(
            mask,
            index.order,
            index.segments[: few + 1],
            threshold,
            few_offsets,
            segment_of,
            segment_fires,
            backend=backend,
            threads=threads,
        )
        large_row, large_neuron = np.nonzero(large_listed)
        tied_neuron, tied = self._first_ties(index, mask, wanted, backend, threads)
        rows = self._rows(
            index,
            np.concatenate(
                [np.repeat(np.arange(neurons), np.diff(few_offsets)), large_neuron, tied_neuron]
            ),
            np.concatenate([segment_of, few + large_row, tied]),
            np.concatenate(
                [segment_fires, large[large_row, large_neuron], threshold[tied_neuron] - 1]
            ),
            complete,
        )
        return NgramCounts(index.n, ngram_fires, offsets, count, number, coverage, rows)

    def _first_ties(
        self,
        index: NgramIndex,
        mask: np.ndarray,
        wanted: _Wanted,
        backend: str | None,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (neuron, segment) of the ties that are wanted.

        Goes through the n-grams in the order of their ids, and ends as soon as all are found.
        """
        neurons = wanted.ties.size
        # What a neuron lacks of the limit is counted as found, so that it ends with its last one.
        limit = int(wanted.ties.max(initial=0))
        segment_of = np.empty((neurons, limit), dtype=np.int32)
        found = limit - wanted.ties
        count = np.maximum(wanted.threshold - 1, 1)
        tied = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))]
        for some in _by_id(index, self.first):
            if np.all(found == limit):
                break
            before = found.copy()
            ops.first_segments(
                mask,
                some.order,
                some.bounds,
                count,
                segment_of,
                found,
                backend=backend,
                threads=threads,
            )
            place = np.arange(limit)
            neuron, at = np.nonzero((place >= before[:, None]) & (place < found[:, None]))
            tied.append((neuron, some.segments[segment_of[neuron, at]]))
        neuron, segment = (np.concatenate(parts) for parts in zip(*tied, strict=True))
        return neuron, segment

    def _rows(
        self,
        index: NgramIndex,
        neuron: np.ndarray,
        segment: np.ndarray,
        fires: np.ndarray,
        complete: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Sort the listed n-grams by neuron, fires and id; cut the lists that are not complete."""
        order = _order(neuron, fires, index.rank[segment])
        neuron, segment, fires = neuron[order], segment[order], fires[order]
        rank = np.arange(neuron.size) - np.searchsorted(neuron, np.arange(complete.size))[neuron]
        keep = complete[neuron] | (rank < TOP)
        neuron, segment, fires, rank = neuron[keep], segment[keep], fires[keep], rank[keep]
        occurrences = index.lengths(segment)
        return {
            "neuron": neuron.astype(np.int32),
            "tokens": index.tokens(segment, self.ids),
            "fires": fires,
            "occurrences": occurrences,
            "rank": rank.astype(np.int32),
            "covered": self.precision.denominator * fires >= self.precision.numerator * occurrences,
            "complete": complete[neuron],
        }
