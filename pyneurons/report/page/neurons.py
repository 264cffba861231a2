"""What the page knows of neurons: a layer's table, and the details of some of its neurons.

Numbers are those of `Scan.neuron`, for all neurons of a layer at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.analysis.detectors import decided
from pyneurons.report import source, words

if TYPE_CHECKING:
    from collections.abc import Sequence

CURVE_POINTS: Final = 128
"""Points of the positional curve of a neuron that is not positional; the others have all."""

DETAILS: Final = 1024
"""Neurons of one block of details: 0.5 MB or so, read when the first of them is opened."""

UNKNOWN: Final = 2**32 - 1
"""A covering number that is known in bounds only."""

Detecting = dict[int, tuple[np.ndarray, np.ndarray]]

_MOST_COVERED: Final = 50
_BEFORE, _AFTER = 12, 4
_FLAGS: Final = ("dead", "provably_dead", "provably_on", "positional")
_COUNTS: Final = ("fires", "bos_fires", "separator_fires")
_FLOATS: Final = ("z_max", "z_sup", "z_inf", "mi")
_SAID: Final = ("role", *_FLAGS, "positional_type", "positional_strength")


def layer_table(scan: Any, layer: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the table of one layer, a row for each neuron.

    Returns
    -------
    (columns, phrases)
        ``columns``: counts, ``domain_fires`` [D, F], bounds, ``ngram_fires_n, coverage_n`` (`UNKNOWN`
        where only ``coverage_n_least`` and ``coverage_n_most`` are known), ``role`` (-1: left
        open), ``flags`` (bits: dead, provably dead, provably on, positional, positional left
        open), and ``said``, the index in ``phrases`` of what the neuron is in words.
    """
    rows = scan.rows("neurons", layer)
    columns: dict[str, np.ndarray] = {name: rows[name] for name in _COUNTS}
    columns["domain_fires"] = np.stack([rows[f"fires_{name}"] for name in scan.domain_tokens])
    columns |= {name: rows[name] for name in _FLOATS}
    for n in scan.manifest["settings"]["ngrams"]:
        columns[f"ngram_fires_{n}"] = rows[f"ngram_fires_{n}"]
        columns[f"coverage_{n}"] = _counts(rows[f"coverage_{n}"], UNKNOWN)
        for end in ("least", "most"):
            if f"coverage_{n}_{end}" in rows:
                columns[f"coverage_{n}_{end}"] = rows[f"coverage_{n}_{end}"]
    columns["role"] = _counts(rows["role"], -1)
    open_ = np.array([value is None for value in rows["positional"]])
    flags = np.stack([_truth(rows[name]) for name in _FLAGS] + [open_])
    columns["flags"] = (flags << np.arange(len(flags))[:, None]).sum(axis=0)
    columns["said"], phrases = _said(rows, columns["role"])
    return columns, phrases


def _counts(values: Any, missing: int) -> np.ndarray:
    """Return a column of counts; nulls, which Arrow gives back as NaN, as ``missing``."""
    values = np.asarray(values)
    if values.dtype.kind != "f":
        return np.asarray(values, dtype=np.int64)
    known = np.where(np.isnan(values), missing, np.nan_to_num(values))
    return np.asarray(known, dtype=np.int64)


def _truth(values: Any) -> np.ndarray:
    return np.asarray(values == np.True_, dtype=np.uint8) if len(values) else np.zeros(0, np.uint8)


def _said(rows: dict[str, Any], role: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return which phrase is said of each neuron, and the phrases: few, by one function."""
    keys = list(
        zip(
            role.tolist(),
            *(_truth(rows[name]).tolist() for name in _FLAGS),
            rows["positional_type"],
            rows["positional_strength"],
            strict=True,
        )
    )
    distinct = sorted(set(keys), key=str)
    place = {key: i for i, key in enumerate(distinct)}
    phrases = []
    for key in distinct:
        given: dict[str, Any] = dict(zip(_SAID, key, strict=True))
        given["role"] = None if given["role"] < 0 else given["role"]
        phrases.append(words.role(**given))
    return np.array([place[key] for key in keys], dtype=np.int64), phrases


def detecting(scan: Any) -> Detecting:
    """Return, for each n, layer and neuron of the certain detectors, int64 each."""
    found = {
        n: decided(source.columns(scan.detectors(n))) for n in scan.manifest["settings"]["ngrams"]
    }
    return {n: (source.whole(t["layer"]), source.whole(t["neuron"])) for n, t in found.items()}


class Details:
    """What the page shows of single neurons of a layer: a block of columns for some at a time."""

    def __init__(self, scan: Any, layer: int, detectors: Detecting, *, text: bool) -> None:
        self._scan = scan
        self._orders: list[int] = list(scan.manifest["settings"]["ngrams"])
        self._curves = scan.position_fires(layer)
        self._positional = _truth(scan.rows("neurons", layer)["positional"]).astype(np.bool_)
        self._vocabulary = scan.rows("vocabulary", layer)
        listed = scan.rows("ngrams", layer) if self._orders else {}
        self._ngrams = {
            n: _Ragged(_shown(listed, n, neurons[layers == layer]))
            for n, (layers, neurons) in detectors.items()
        }
        self._triggers = _Ragged.none(("n", "token", "score", "centred", "rank"))
        if scan.has_suppression and self._orders:
            self._triggers = _Ragged(scan.rows("suppression", layer))
        self._examples = _Ragged(scan.rows("examples", layer)) if text else None

    def block(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Return the columns of neurons ``first`` to ``last - 1``.

        ``NAME_starts`` [k + 1] says where the rows of each neuron begin.
        """
        columns: dict[str, np.ndarray] = {}
        for n in self._orders:
            starts, rows = self._ngrams[n].between(first, last)
            columns[f"ngrams_{n}_starts"] = starts
            columns[f"ngrams_{n}_tokens"] = np.stack([rows[f"t{i}"] for i in range(n)], axis=1)
            for name in ("fires", "occurrences", "covered"):
                columns[f"ngrams_{n}_{name}"] = np.asarray(rows[name]).astype(np.int64)
        columns |= self._position_columns(first, last)
        for name in ("promoted", "suppressed"):
            columns[name] = self._vocabulary[name][first:last]
            columns[f"{name}_scores"] = self._vocabulary[f"{name}_scores"][first:last]
        starts, rows = self._triggers.between(first, last)
        columns["triggers_starts"] = starts
        for name in ("n", "token", "rank", "score", "centred"):
            columns[f"triggers_{name}"] = rows[name]
        if self._examples is not None:
            columns |= self._contexts(*self._examples.between(first, last, words.MOST_CONTEXTS))
        return columns

    def _position_columns(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Return curves: sums of fires over bins of positions, and all positions of positional ones."""
        fires = self._curves[first:last]
        edges = bin_edges(fires.shape[1])
        sums = np.add.reduceat(fires, edges[:-1], axis=1) if fires.size else fires
        whole = np.flatnonzero(self._positional[first:last])
        if fires.shape[1] <= CURVE_POINTS:
            whole = whole[:0]
        return {"curve": sums, "curve_whole_of": whole, "curve_whole": fires[whole]}

    def _contexts(self, starts: np.ndarray, rows: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return the texts around firing positions, as token ids: `Scan.contexts` for many."""
        at = rows["row"].astype(np.int64)
        begin, end = (self._scan.starts[rows["sequence"] + i] for i in (0, 1))
        left = np.maximum(begin, at - _BEFORE)
        right = np.minimum(end, at + 1 + _AFTER)
        size = right - left
        offsets = np.concatenate([[0], np.cumsum(size)])
        places = np.arange(int(offsets[-1])) - np.repeat(offsets[:-1] - left, size)
        return {
            "contexts_starts": starts,
            "contexts_domain": rows["domain"],
            "contexts_position": rows["position"],
            "contexts_before": at - left,
            "contexts_tokens_starts": offsets,
            "contexts_tokens": np.asarray(self._scan.ids)[places],
        }


def _shown(rows: dict[str, Any], n: int, detecting: np.ndarray) -> dict[str, np.ndarray]:
    """Return the n-grams that the page shows: the first of each neuron, and what it detects."""
    own = np.flatnonzero(rows["n"] == n)
    own = own[np.argsort(rows["neuron"][own], kind="stable")]
    neuron = rows["neuron"][own].astype(np.int64)
    place = np.arange(neuron.size) - np.searchsorted(neuron, neuron, side="left")
    covered = _truth(rows["covered"][own]).astype(np.bool_)
    covered &= np.isin(neuron, detecting) & (place < _MOST_COVERED)
    own = own[(place < words.MOST_NGRAMS) | covered]
    return {name: values[own] for name, values in rows.items()}


def bin_edges(positions: int) -> np.ndarray:
    """Return the first position of each bin and the end: at most `CURVE_POINTS` bins, int64."""
    bins = min(positions, CURVE_POINTS)
    return np.arange(bins + 1, dtype=np.int64) * positions // max(bins, 1)


class _Ragged:
    """Rows of a table that belong to neurons, by neuron; within one in the order of the table."""

    def __init__(self, rows: dict[str, Any]) -> None:
        neuron = np.asarray(rows["neuron"]).astype(np.int64)
        order = np.argsort(neuron, kind="stable")
        self._rows = {name: np.asarray(values)[order] for name, values in rows.items()}
        self._neuron = neuron[order]

    @classmethod
    def none(cls, names: Sequence[str]) -> _Ragged:
        return cls({name: np.zeros(0, np.int64) for name in ("neuron", *names)})

    def between(
        self, first: int, last: int, most: int | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return where each neuron's rows start, and the rows, at most so many of each."""
        starts = np.searchsorted(self._neuron, np.arange(first, last + 1))
        take = np.arange(starts[0], starts[-1])
        if most is not None:
            size = np.diff(starts)
            take = take[take - np.repeat(starts[:-1], size) < most]
            starts = np.concatenate([[0], np.cumsum(np.minimum(size, most))])
        rows = {name: values[take] for name, values in self._rows.items()}
        return starts - starts[0], rows
