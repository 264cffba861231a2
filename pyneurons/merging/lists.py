"""The n-grams that trigger a neuron, joined over runs: exact where all runs list all, else in bounds.

A scan lists all n-grams of a neuron (one fire and more) where its covering number is at most
``list_limit``, else its 20 most frequent ones. Of one that a run does not list the neuron fires there at
most as often as on the last that it lists: that is the run's ``unlisted`` of the neuron, 0 where the list
is complete. Bounds add up, run by run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pyneurons.covering import DEFAULT_SHARE, covering_number
from pyneurons.errors import IntegrityError
from pyneurons.merging.counters import NGRAM_FIRES, total
from pyneurons.merging.histograms import aligned, disjoint, from_counts, of_neurons
from pyneurons.observers.ngram import NgramCounts
from pyneurons.result import columns_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyneurons.conservation import Histogram
    from pyneurons.corpus import Corpus
    from pyneurons.corpus.ngram_index import NgramIndex
    from pyneurons.merging.parts import Layout, OpenedRun

_PACKED_BITS: Final = 63


class NgramIds:
    """Finds n-grams of a corpus by their tokens. Memory: 8 bytes for each different n-gram, or 4 n."""

    def __init__(self, corpus: Corpus, index: NgramIndex) -> None:
        self.index = index
        self._bits = corpus.vocab_size.bit_length()
        self.segment = np.empty(index.rank.size, dtype=np.int64)
        self.segment[index.rank] = np.arange(index.rank.size)
        self.tokens = index.tokens(self.segment, corpus.ids)
        self.occurrences = index.lengths(self.segment)
        self._keys = self._keyed(self.tokens)

    def __len__(self) -> int:
        return self.segment.size

    def find(self, tokens: np.ndarray) -> np.ndarray:
        """Return the id of each n-gram [k, n]: its number in the lexicographic order of all.

        Raises
        ------
        IntegrityError
            If the corpus does not hold one.
        """
        keys = self._keyed(tokens)
        found = np.searchsorted(self._keys, keys)
        missing = found == len(self)
        missing[~missing] = self._keys[found[~missing]] != keys[~missing]
        if missing.any():
            ids = tokens[np.flatnonzero(missing)[0]].tolist()
            message = f"the n-gram {ids} is listed, but the corpus does not hold it"
            raise IntegrityError(message)
        return found

    def _keyed(self, tokens: np.ndarray) -> np.ndarray:
        """Return what sorts as the tokens do."""
        n = tokens.shape[1]
        if n * self._bits <= _PACKED_BITS:
            keys = np.zeros(len(tokens), dtype=np.int64)
            for column in tokens.T:
                keys <<= self._bits
                keys |= column
            return keys
        return np.ascontiguousarray(tokens, dtype=">u4").view(f"S{4 * n}").reshape(-1)


@dataclass(frozen=True)
class _Listed:
    """What one run lists of one layer and one n."""

    neuron: np.ndarray
    ngram: np.ndarray  # id
    fires: np.ndarray
    fires_most: np.ndarray
    exact: np.ndarray  # bool [F]: all n-grams are listed
    unlisted: np.ndarray  # int64 [F]: most fires on one that is not
    aligned: Histogram
    disjoint: Histogram


@dataclass(frozen=True)
class MergedNgrams:
    """The n-gram statistics of one layer of a merged run, for one n.

    ``counts.offsets, count, number`` is the exact histogram where ``exact``, else that of `disjoint`.
    """

    counts: NgramCounts
    exact: np.ndarray  # bool [F]
    unlisted: np.ndarray
    aligned: Histogram
    disjoint: Histogram

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what is stored beside the arrays of a scan."""
        n = self.counts.n
        found = {f"exact_{n}": self.exact, f"unlisted_{n}": self.unlisted}
        for name, histogram in (("aligned", self.aligned), ("disjoint", self.disjoint)):
            for part, values in zip(("offsets", "count", "number"), histogram, strict=True):
                found[f"{name}_{n}_{part}"] = values
        return found


def merged_ngrams(layout: Layout, layer: int, ids: NgramIds, n: int) -> MergedNgrams:
    """Join the lists and histograms of one layer. Cost: sorts the rows of all lists."""
    listed = [_listed(opened, layer, ids, n) for opened in layout.opened]
    neurons = listed[0].exact.size
    exact = np.logical_and.reduce([one.exact for one in listed])
    unlisted = total([one.unlisted for one in listed], f"layer {layer}: unlisted {n}-grams")
    neuron, ngram, fires, fires_most = _added(listed, unlisted, len(ids))
    ngram_fires = total(
        [opened.run.layer_array(layer, NGRAM_FIRES.format(n)) for opened in layout.opened],
        f"layer {layer}: {NGRAM_FIRES.format(n)}",
    )
    low, high = aligned([one.aligned for one in listed]), disjoint([one.disjoint for one in listed])
    own = exact[neuron]
    histogram = of_neurons(from_counts(neuron[own], fires[own], neurons), exact, high)
    counts = NgramCounts(
        n,
        ngram_fires,
        *histogram,
        covering_number(*histogram, ngram_fires),
        _rows(ids, neuron, ngram, fires, fires_most, exact),
    )
    return MergedNgrams(counts, exact, unlisted, low, high)


def _listed(opened: OpenedRun, layer: int, ids: NgramIds, n: int) -> _Listed:
    run = opened.run
    rows = columns_of(run.table("ngrams", layer=layer, n=n))
    neuron, fires = rows["neuron"].astype(np.int64), rows["fires"].astype(np.int64)
    tokens = np.stack([rows[f"t{i}"] for i in range(n)], axis=1).astype(np.uint32)
    ngram = ids.find(tokens)
    histogram = run.histogram(layer, n)
    if "merged" in run.manifest:
        return _Listed(
            neuron,
            ngram,
            fires,
            rows["fires_most"].astype(np.int64),
            run.layer_array(layer, f"exact_{n}"),
            run.layer_array(layer, f"unlisted_{n}"),
            run.histogram(layer, n, "aligned"),
            run.histogram(layer, n, "disjoint"),
        )
    width = run.n_neurons
    held = np.zeros(width, dtype=np.int64)
    np.add.at(held, neuron, fires)
    exact = held == run.layer_array(layer, NGRAM_FIRES.format(n))
    least = np.full(width, np.iinfo(np.int64).max)
    np.minimum.at(least, neuron, fires)
    unlisted = np.where(exact, 0, least)
    return _Listed(neuron, ngram, fires, fires, exact, unlisted, histogram, histogram)


def _added(
    listed: Sequence[_Listed], unlisted: np.ndarray, ngrams: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Add the rows of all runs; return neuron, n-gram, fires and most fires, by neuron and n-gram."""
    place = np.concatenate([one.neuron * ngrams + one.ngram for one in listed])
    fires = np.concatenate([one.fires for one in listed])
    # What a row has more than the run would give to an n-gram that it does not list.
    more = np.concatenate([one.fires_most - one.unlisted[one.neuron] for one in listed])
    order = np.argsort(place, kind="stable")
    place, fires, more = place[order], fires[order], more[order]
    begin = np.flatnonzero(np.append(True, place[1:] != place[:-1])[: place.size])
    if begin.size:
        place, fires, more = (
            place[begin],
            np.add.reduceat(fires, begin),
            np.add.reduceat(more, begin),
        )
    neuron, ngram = np.divmod(place, max(ngrams, 1))
    return neuron, ngram, fires, unlisted[neuron] + more


def _rows(
    ids: NgramIds,
    neuron: np.ndarray,
    ngram: np.ndarray,
    fires: np.ndarray,
    fires_most: np.ndarray,
    exact: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the rows of the table, by neuron, fires and id."""
    order = np.lexsort((ngram, -fires, neuron))
    neuron, ngram, fires, fires_most = (a[order] for a in (neuron, ngram, fires, fires_most))
    occurrences = ids.occurrences[ngram]
    precision = DEFAULT_SHARE
    return {
        "neuron": neuron.astype(np.int32),
        "tokens": ids.tokens[ngram],
        "fires": fires,
        "occurrences": occurrences,
        "rank": (np.arange(neuron.size) - np.searchsorted(neuron, neuron)).astype(np.int32),
        "covered": precision.denominator * fires >= precision.numerator * occurrences,
        "complete": exact[neuron],
        "fires_most": fires_most,
    }
