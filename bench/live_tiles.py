"""Tiles of fc2 in which something fires: counted on bits, expected where neurons fire independently."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np

ROWS: Final = 128
NEURONS: Final = 64
"""What fc2 leaves out at a time where nothing in it fires."""

_MOST: Final = 0.99
"""The highest rate of a neuron."""


def firing_blocks(fires: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """Return who fires in each block of rows, bool [ceil(N / rows), F]; ``fires`` is bool [N, F]."""
    return np.logical_or.reduceat(fires, np.arange(0, fires.shape[0], rows), axis=0)


def live_tiles(blocks: np.ndarray, neurons: int = NEURONS) -> np.ndarray:
    """Return which tiles of these blocks of rows are live, bool [blocks, ceil(F / neurons)]."""
    return np.logical_or.reduceat(blocks, np.arange(0, blocks.shape[1], neurons), axis=1)


def expected_live_share(rates: np.ndarray) -> float:
    """Return the expected share of live tiles; neuron f of [F] fires with ``rates[f]``, each alone."""
    silent = np.add.reduceat(ROWS * np.log1p(-rates), np.arange(0, rates.size, NEURONS))
    return float(np.mean(-np.expm1(silent)))


def spread_rates(number: int, mean: float, union: float) -> np.ndarray:
    """Return so many rates whose logarithms are normal, rising.

    ``mean`` is their mean, and a share ``union`` of the neurons fires on at least one of 128 rows.
    """
    middle, deviation = _fit(mean, union)
    return _rates(number, middle, deviation)


def _rates(number: int, middle: float, deviation: float) -> np.ndarray:
    normal = NormalDist()
    quantiles = np.array([normal.inv_cdf((i + 0.5) / number) for i in range(number)])
    return np.minimum(np.exp(middle + deviation * quantiles), _MOST)


@lru_cache
def _fit(mean: float, union: float) -> tuple[float, float]:
    """Find mean and deviation of the logarithms by halving; the wider, the fewer fire on 128 rows."""
    narrow, wide = 0.0, 12.0
    while wide - narrow > 1e-4:
        deviation = (narrow + wide) / 2
        low, high = -60.0, 20.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            if _rates(1001, middle, deviation).mean() < mean:
                low = middle
            else:
                high = middle
        if -np.expm1(128 * np.log1p(-_rates(1001, low, deviation))).mean() > union:
            narrow = deviation
        else:
            wide = deviation
    return low, deviation
