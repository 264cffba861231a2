"""The n-grams that a layer detects as a whole, and which of them are new (definition 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyneurons.analysis.detectors import supported
from pyneurons.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def detected(table: Mapping[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """Count, layer by layer, the n-grams that some detector covers.

    Parameters
    ----------
    table : dict
        A table of `pyneurons.analysis.detectors.detectors`, of one n.
    layers : sequence of int
        Absolute ids of all scanned layers, those without detectors too.

    Returns
    -------
    dict
        One row per layer, ascending: ``layer, detectors, supported`` (numbers of neurons),
        ``detected`` (distinct n-grams covered by a detector of this layer), ``cumulative``
        (distinct ones up to this layer), ``seen_lower`` and ``new`` (of ``detected``, those that
        some lower scanned layer detects, and the others), ``seen_below`` and
        ``new_below`` (the same against the layer just below; -1 where that layer was not
        scanned).
    """
    ids = sorted(int(layer) for layer in layers)
    sets: dict[int, set[tuple[int, ...]]] = {layer: set() for layer in ids}
    neurons = dict.fromkeys(ids, 0)
    backed = dict.fromkeys(ids, 0)
    for layer, ngrams, is_supported in zip(
        np.asarray(table["layer"]).tolist(),
        table["covered"],
        supported(table).tolist(),
        strict=True,
    ):
        if layer not in sets:
            message = f"detected: the table has a detector in layer {layer}, layers are {ids}"
            raise InputError(message)
        neurons[layer] += 1
        backed[layer] += is_supported
        sets[layer].update(tuple(ngram) for ngram in ngrams)
    columns: dict[str, list[int]] = {
        name: []
        for name in (
            "layer",
            "detectors",
            "supported",
            "detected",
            "cumulative",
            "seen_lower",
            "new",
            "seen_below",
            "new_below",
        )
    }
    lower: set[tuple[int, ...]] = set()
    for layer in ids:
        here = sets[layer]
        known = len(here & lower)
        lower |= here
        below = sets.get(layer - 1, set()) if layer > 0 else set()
        has_below = layer == 0 or layer - 1 in sets
        again = len(here & below)
        row = (
            layer,
            neurons[layer],
            backed[layer],
            len(here),
            len(lower),
            known,
            len(here) - known,
            again if has_below else -1,
            len(here) - again if has_below else -1,
        )
        for values, value in zip(columns.values(), row, strict=True):
            values.append(value)
    return {name: np.array(values, dtype=np.int64) for name, values in columns.items()}
