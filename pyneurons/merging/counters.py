"""Counters of one layer added over runs, each in its own way; none is ever rounded or wraps."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyneurons.merging.parts import Layout

_ADDED: Final = frozenset(
    {"fires", "bos_fires", "separator_fires", "sample_fires", "flips_gained", "flips_lost"}
)
_BY_DOMAIN: Final = frozenset({"domain_fires", "partial_fires", "position_fires"})
_OF_THE_WEIGHTS: Final = frozenset({"z_sup", "z_inf", "margin", "provably_dead", "provably_on"})
NGRAM_FIRES: Final = "ngram_fires_{}"

_LIMIT: Final = np.iinfo(np.int64).max


def merged_counters(layout: Layout, layer: int) -> dict[str, np.ndarray]:
    """Return the counters of one layer of the merged run; what n-grams tell apart from A_n is not here.

    Fires add up; ``z_max`` is the largest; ``first_fire`` is the first in the order of the merged rows;
    bounds, which the weights alone decide, are equal in all runs.

    Raises
    ------
    IntegrityError
        If a sum passes 2^63 - 1, or bounds differ between runs.
    """
    runs = [opened.run for opened in layout.opened]
    orders = runs[0].ngram_orders
    added = _ADDED | {NGRAM_FIRES.format(n) for n in orders}
    found: dict[str, np.ndarray] = {}
    for name in runs[0].layer_names(layer):
        if name in _BY_DOMAIN:
            found[name] = _by_domain(layout, layer, name)
        elif name in added:
            arrays = [run.layer_array(layer, name) for run in runs]
            found[name] = total(arrays, f"layer {layer}: {name}")
        elif name in _OF_THE_WEIGHTS:
            arrays = [run.layer_array(layer, name) for run in runs]
            check_equal(layout, arrays, f"layer {layer}: {name}")
            found[name] = arrays[0]
        elif name == "z_max":
            found[name] = np.maximum.reduce([run.layer_array(layer, name) for run in runs])
        elif name == "first_fire":
            rows = [layout.rows(i, run.layer_array(layer, name)) for i, run in enumerate(runs)]
            first = np.stack(rows)
            first[first < 0] = _LIMIT
            found[name] = first.min(axis=0)
            found[name][found[name] == _LIMIT] = -1
        elif not _of_ngrams(name):
            message = (
                f"{layout.opened[0].name}: layer {layer}: {name!r} is not an array of this version"
            )
            raise IntegrityError(message)
    return found


def total(arrays: Sequence[np.ndarray], what: str) -> np.ndarray:
    """Return the sum of counters, int64.

    Raises
    ------
    IntegrityError
        If it does not fit: a sum never wraps.
    """
    summed = np.zeros(arrays[0].shape, dtype=np.int64)
    for values in arrays:
        if values.size and (int(values.min()) < 0 or (values > _LIMIT - summed).any()):
            message = f"{what}: the sum of the runs passes 2^63 - 1, or a counter is negative"
            raise IntegrityError(message)
        summed += values
    return summed


def _by_domain(layout: Layout, layer: int, name: str) -> np.ndarray:
    """Add arrays [domains, ...], each domain to its own, in the narrowest type that holds the sums."""
    # A layer of 66b has 75 million counters by position in each domain: never int64 at a time.
    stored = [opened.run.stored_layer_array(layer, name) for opened in layout.opened]
    most = sum(int(values.max(initial=0)) for values in stored)
    if most > _LIMIT:
        message = f"layer {layer}: {name}: the sum of the runs passes 2^63 - 1"
        raise IntegrityError(message)
    summed = np.zeros((len(layout.domains), *stored[0].shape[1:]), dtype=np.min_scalar_type(most))
    for i, values in enumerate(stored):
        for place, own in zip(layout.domain_places(i), values, strict=True):
            summed[place] += own.astype(summed.dtype, copy=False)
    return summed


def check_equal(layout: Layout, values: Sequence[Any], what: str) -> None:
    """Refuse arrays or tables, one of each run, that the model alone decides and that differ."""
    for opened, own in zip(layout.opened[1:], values[1:], strict=True):
        first = values[0]
        same = np.array_equal(first, own) if isinstance(own, np.ndarray) else first.equals(own)
        if not same:
            message = (
                f"{what} differs between {layout.opened[0].name} and {opened.name}, though both "
            )
            message += "name the same weights and code: verify both (pyneurons verify)"
            raise IntegrityError(message)


def _of_ngrams(name: str) -> bool:
    return (
        re.fullmatch(r"(coverage|histogram|aligned|disjoint|unlisted|exact)_\d.*", name) is not None
    )
