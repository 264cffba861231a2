"""Histograms of n-gram counts joined without knowing which n-grams they count.

A histogram lists, for each neuron, ``number`` n-grams with ``count`` fires each, as `NgramCounts` does.
Let c be the counts of a neuron on all n-grams of a merged corpus. The sum of its k largest lies between

- that of the counts of all parts, each n-gram of each part taken for one of its own (`disjoint`), and
- that of the largest counts of all parts added, the second largest added, and so on (`aligned`).

So a covering number is at most that of `disjoint` and at least that of `aligned`, at any share. Both are
commutative and associative. Equal where all n-grams are of one part, or as frequent in all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyneurons.conservation import Histogram

_MOST: Final = np.iinfo(np.int64).max


def from_counts(neuron: np.ndarray, count: np.ndarray, neurons: int) -> Histogram:
    """Return the histogram of n-grams that are given one by one: neuron, fires above 0, int64."""
    return _gathered(neuron, count, np.ones(count.size, dtype=np.int64), neurons)


def disjoint(histograms: Sequence[Histogram]) -> Histogram:
    """Return the counts of all parts, no n-gram in two of them."""
    neurons = histograms[0][0].size - 1
    return _gathered(
        np.concatenate([_owners(histogram) for histogram in histograms]),
        np.concatenate([count for _, count, _ in histograms]),
        np.concatenate([number for _, _, number in histograms]),
        neurons,
    )


def aligned(histograms: Sequence[Histogram]) -> Histogram:
    """Return the sums of the k-th largest counts of all parts, k = 1, 2, ..."""
    neurons = histograms[0][0].size - 1
    runs = [_descending(histogram) for histogram in histograms]
    # A place is (neuron, k - 1) in one number; a run of equal counts ends before a place.
    stride = 1 + max([int(end.max(initial=0)) for _, end, _ in runs])
    if neurons * stride > _MOST:  # pragma: no cover - 2^63 n-grams
        message = f"{neurons} neurons with {stride} n-grams each"
        raise OverflowError(message)
    places = [owner * stride + end for owner, end, _ in runs]
    last = np.unique(np.concatenate(places))
    owner = (last - 1) // stride
    first = np.concatenate([[0], last])[:-1]
    first = np.maximum(first, owner * stride)
    summed = np.zeros(last.size, dtype=np.int64)
    for (of, _, count), place in zip(runs, places, strict=True):
        if not count.size:
            continue
        # The run that holds the place before ``last``, if the part has so many n-grams.
        at = np.minimum(np.searchsorted(place, last, side="left"), count.size - 1)
        summed += np.where((of[at] == owner) & (place[at] >= last), count[at], 0)
    return _gathered(owner, summed, last - first, neurons)


def of_neurons(histogram: Histogram, wanted: np.ndarray, others: Histogram) -> Histogram:
    """Return the entries of one histogram for the neurons ``wanted``, bool [F], else of the other."""
    parts = []
    for source, keep in ((histogram, wanted), (others, ~wanted)):
        own = _owners(source)
        some = keep[own]
        parts.append((own[some], source[1][some], source[2][some]))
    owner, count, number = (np.concatenate(values) for values in zip(*parts, strict=True))
    return _gathered(owner, count, number, wanted.size)


def _owners(histogram: Histogram) -> np.ndarray:
    offsets = histogram[0]
    return np.repeat(np.arange(offsets.size - 1), np.diff(offsets))


def _descending(histogram: Histogram) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (owner, end, count): runs of equal counts, the largest first, by neuron.

    ``end``: how many n-grams of the neuron have this count or a larger one.
    """
    offsets, count, number = histogram
    owner = _owners(histogram)
    # Counts ascend within a neuron: turned round, place by place.
    turned = offsets[owner] + offsets[owner + 1] - 1 - np.arange(owner.size)
    number = number[turned]
    summed = np.concatenate([[0], np.cumsum(number)])
    return owner, summed[1:] - summed[offsets[owner]], count[turned]


def _gathered(owner: np.ndarray, count: np.ndarray, number: np.ndarray, neurons: int) -> Histogram:
    """Sort entries by neuron and count, and join those that have both alike."""
    order = np.lexsort((count, owner))
    owner, count, number = owner[order], count[order], number[order]
    new = np.ones(owner.size, dtype=np.bool_)
    new[1:] = (owner[1:] != owner[:-1]) | (count[1:] != count[:-1])
    begin = np.flatnonzero(new)
    joined = np.add.reduceat(number, begin) if begin.size else number
    offsets = np.searchsorted(owner[begin], np.arange(neurons + 1)).astype(np.int64)
    return offsets, count[begin].astype(np.int64), joined.astype(np.int64)
