"""Covering numbers in buckets, for the lower half of the layers (definition 3)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from pyneurons.covering import DEFAULT_SHARE, covering_number, exact_share
from pyneurons.errors import InputError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BUCKET_EDGES",
    "DEFAULT_SHARE",
    "bucket_counts",
    "bucket_labels",
    "covering_number",
    "exact_share",
    "lower_half",
]

BUCKET_EDGES: Final = (5, 10, 20, 50, 200, 1000, 2000, 5000)
"""Last covering number of each bucket but the last, which has no end."""


def lower_half(layers: Sequence[int] | np.ndarray, n_model_layers: int) -> np.ndarray:
    """Return which layers lie in the first half of the model: ``2 * layer < L``, bool."""
    return np.asarray(2 * np.asarray(layers, dtype=np.int64) < n_model_layers, dtype=np.bool_)


def bucket_labels(edges: Sequence[int] = BUCKET_EDGES) -> list[str]:
    """Return one label per column of `bucket_counts`: ``"0", "1-5", ..., "more than 5k"``."""
    edges = _checked(edges)

    def short(value: int) -> str:
        return f"{value // 1000}k" if value >= 1000 and value % 1000 == 0 else str(value)

    def span(before: int, last: int) -> str:
        # The paper writes 1k-2k, not 1001-2k.
        first = short(before) if before >= 1000 and before % 1000 == 0 else str(before + 1)
        return first if first == short(last) else f"{first}-{short(last)}"

    inner = [span(before, last) for before, last in pairwise((0, *edges))]
    return ["0", *inner, f"more than {short(edges[-1])}"]


def bucket_counts(
    covering: np.ndarray, alive: np.ndarray, edges: Sequence[int] = BUCKET_EDGES
) -> np.ndarray:
    """Count the alive neurons of each layer by covering number.

    Parameters
    ----------
    covering : int64 [L, F]
        Covering numbers; 0 where a neuron fires at no countable n-gram.
    alive : bool [L, F]
        The neurons to count.
    edges : sequence of int
        Last covering number of each bucket, ascending, the last one open.

    Returns
    -------
    int64 [L, len(edges) + 2]
        Column 0: alive, but A_n = 0 (such a neuron fires only where no countable n-gram ends, BOS
        for one). Column b: ``edges[b - 2] < covering <= edges[b - 1]``. A row sums to the number
        of alive neurons.
    """
    covering, alive = np.asarray(covering), np.asarray(alive)
    if covering.ndim != 2 or covering.shape != alive.shape:
        message = (
            f"bucket_counts: covering has shape {list(covering.shape)} and alive "
            f"{list(alive.shape)}, expected [L, F] for both"
        )
        raise ShapeError(message)
    lasts = np.array((0, *_checked(edges)), dtype=np.int64)
    bucket = np.searchsorted(lasts, covering, side="left")
    columns = lasts.size + 1
    rows = np.arange(covering.shape[0])[:, None] * columns + bucket
    counts = np.bincount(rows[alive], minlength=covering.shape[0] * columns)
    return counts.reshape(covering.shape[0], columns).astype(np.int64)


def _checked(edges: Sequence[int]) -> tuple[int, ...]:
    values = tuple(int(edge) for edge in edges)
    if not values or values[0] < 1 or any(a >= b for a, b in pairwise(values)):
        message = f"edges: {list(edges)} is not an ascending list of whole numbers from 1 up"
        raise InputError(message)
    return values
