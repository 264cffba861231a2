"""Statements that the counters of a layer must not contradict.

The engine checks them before a layer is written, ``pyneurons verify`` on what was written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

Histogram = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Offsets [F + 1], count, number: neuron f fires ``count[i]`` times on ``number[i]`` n-grams each."""


def broken_laws(
    arrays: Mapping[str, np.ndarray],
    histograms: Mapping[int, tuple[Histogram, np.ndarray]],
    tokens: int,
) -> dict[str, np.ndarray]:
    """Return the statements that do not hold, each with where: bool [.., F].

    Parameters
    ----------
    arrays : dict
        Counters of one layer, by the names that they have in its file.
    histograms : dict
        Of each n: the histogram of n-gram counts, and A_n, int64 [F].
    tokens : int
        Positions run.
    """
    fires, domain_fires = arrays["fires"], arrays["domain_fires"]
    by_position = arrays["position_fires"].sum(axis=1, dtype=np.int64)
    special = arrays["bos_fires"] + arrays["separator_fires"]
    laws = {
        # First, for sums of damaged counters could wrap and agree again.
        "no counter is above the positions run": (
            (domain_fires > tokens)
            | (arrays["partial_fires"] > tokens)
            | (arrays["position_fires"].max(axis=1) > tokens)
            | (np.maximum(arrays["bos_fires"], arrays["separator_fires"]) > tokens)
        ),
        "position fires + fires in partial sequences = fires, in every domain": (
            by_position + arrays["partial_fires"] != domain_fires
        ),
        "the fires of all domains add up to the fires": domain_fires.sum(axis=0) != fires,
        "a neuron fires at most once a position": (fires < 0) | (fires > tokens),
        "fires at BOS and at separators are fires": special > fires,
        "a neuron fires exactly when its largest z is above 0": (
            (fires > 0) != (arrays["z_max"] > 0)
        ),
        "a neuron that fires has a first fire": (fires > 0) != (arrays["first_fire"] >= 0),
        "a provably dead neuron never fires": arrays["provably_dead"] & (fires > 0),
        "a provably active neuron always fires": arrays["provably_on"] & (fires < tokens),
    }
    for n, ((offsets, count, number), ngram_fires) in histograms.items():
        # In float64: exact as far as the positions go, and no product wraps.
        above = np.flatnonzero(count.astype(np.float64) * number > tokens)
        laws[f"no {n}-grams have more fires than positions were run"] = np.isin(
            np.arange(fires.size), np.searchsorted(offsets, above, side="right") - 1
        )
        summed = np.concatenate([[0], np.cumsum(count * number)])
        held = summed[offsets[1:]] - summed[offsets[:-1]]
        laws[f"the counts of all {n}-grams add up to A_{n}"] = held != ngram_fires
        laws[f"A_{n} is at most the fires"] = ngram_fires > fires
    return {statement: wrong for statement, wrong in laws.items() if wrong.any()}
