"""Positional neurons and their types (definitions 7 and 8).

Curves are counts: ``position_fires [F, T]`` says on how many of the N full-length sequences a
neuron fires at each position, so that fr(p) = position_fires[f, p] / N. Every threshold on a
frequency is an exact fraction and is tested in integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np

from pyneurons.covering import exact_share
from pyneurons.errors import InputError, IntegrityError, ShapeError

MI_THRESHOLD: Final = 0.05
MIN_SEQUENCES: Final = 50
TYPES: Final = ("oscillatory", "both", "one", "other")
STRENGTHS: Final = ("strong", "weak")

_BLOCK_CELLS = 1 << 21  # 16 MiB of float64


@dataclass(frozen=True)
class TypeRules:
    """The parameters of definition 8.

    Attributes
    ----------
    least_interval : int
    interval_divisor : int
        An interval is a run of at least max(least_interval, T / interval_divisor) positions.
    weak : Fraction
        A frequency is near 0 at ``weak`` or below, near 1 at ``1 - weak`` or above.
    low, high : Fraction
        The smoothed curve has crossed its mid-range when it went from below ``low`` to above
        ``high`` of its span, or back.
    crossings : int
        So many make a curve oscillatory.
    smoothing : int, optional
        Positions in the moving average; None: as many as in the shortest interval.
    """

    least_interval: int = 8
    interval_divisor: int = 64
    weak: Fraction = Fraction(1, 20)
    low: Fraction = Fraction(1, 4)
    high: Fraction = Fraction(3, 4)
    crossings: int = 3
    smoothing: int | None = None

    def __post_init__(self) -> None:
        for name in ("weak", "low", "high"):
            object.__setattr__(self, name, exact_share(getattr(self, name), name))
        if self.low >= self.high:
            message = f"low is {self.low} and high {self.high}, expected low < high"
            raise InputError(message)
        for name in ("least_interval", "interval_divisor", "crossings", "smoothing"):
            value = getattr(self, name)
            if value is not None and value < 1:
                message = f"{name} is {value}, expected at least 1"
                raise InputError(message)

    def interval(self, context: int) -> int:
        """Return the least number of positions of an interval, for a context of T."""
        return max(self.least_interval, -(-context // self.interval_divisor))

    def window(self, context: int) -> int:
        """Return the number of positions in the moving average."""
        return self.smoothing or self.interval(context)


DEFAULT_RULES: Final = TypeRules()


def mutual_information(position_fires: np.ndarray, sequences: int) -> np.ndarray:
    """Return the mutual information between position and firing, in nats.

    ``I = 1/T sum_p [ fr(p) log(fr(p)/fr) + (1 - fr(p)) log((1 - fr(p))/(1 - fr)) ]``, fr the mean
    of fr(p), natural logarithm, 0 log 0 = 0.

    Parameters
    ----------
    position_fires : integer [F, T]
    sequences : int
        N.

    Returns
    -------
    float64 [F]
        At least 0; NaN when there are no sequences or no positions.

    Notes
    -----
    Both ratios are formed of integers (k T / K and (N - k) T / (N T - K), K = sum_p k), so each
    is rounded once, and positions at 0 or 1 are kept, which carry the most.
    Cost: two logarithms per cell, or, where there are fewer sequences than positions, one pass over
    the cells and two logarithms for each count from 0 to N.
    """
    counts = _checked(position_fires, sequences)
    neurons, context = counts.shape
    out = np.full(neurons, np.nan)
    if sequences < 1 or context < 1:
        return out
    block = max(1, _BLOCK_CELLS // context)
    for first in range(0, neurons, block):
        fires, times = _by_count(counts[first : first + block], sequences)
        total = np.zeros(times.shape)
        for part in (fires, sequences - fires):
            mass = times * part
            ratio = np.ones(total.shape)
            np.divide(part * context, mass.sum(axis=1, keepdims=True), out=ratio, where=mass > 0)
            total += mass * np.log(ratio)
        out[first : first + block] = total.sum(axis=1) / (sequences * context)
    # Rounding may leave a sum of terms of both signs just below 0.
    information: np.ndarray = np.maximum(out, 0.0)
    return information


def bias(sequences: int) -> float:
    """Return 1/(2N), about what I shows, in nats, for a neuron without any positional effect.

    It is the mean of I's quadratic term; a neuron that fires at about two of the N sequences at
    each position shows 14 % more.
    """
    return 1.0 / (2 * sequences) if sequences > 0 else math.inf


def mi_without_bos(position_fires: np.ndarray, sequences: int) -> np.ndarray:
    """Return the mutual information over the positions 1 to T - 1, float64 [F]."""
    return mutual_information(np.asarray(position_fires)[:, 1:], sequences)


def is_positional(
    information: np.ndarray,
    sequences: int,
    *,
    mi: float = MI_THRESHOLD,
    min_sequences: int = MIN_SEQUENCES,
) -> np.ndarray | None:
    """Return which neurons are positional (I > ``mi``, nothing subtracted), bool.

    None, which says nothing about any neuron, below ``min_sequences`` full sequences.
    """
    if sequences < min_sequences:
        return None
    passes: np.ndarray = np.greater(information, mi)
    return passes


def classify(
    position_fires: np.ndarray, sequences: int, rules: TypeRules = DEFAULT_RULES
) -> tuple[np.ndarray, np.ndarray]:
    """Return the type and the strength of positional curves.

    Position 0 is left out: after BOS every neuron has fr(0) = 0 or 1. An interval at 0 (at 1) is a
    run of enough positions with a frequency <= ``weak`` (>= 1 - ``weak``). In this order:

    - *oscillatory*: the moving average crosses its mid-range at least 3 times;
    - *both*: intervals at 0 and at 1; *one*: only one of them; *other*: none.

    *Strong*: on each side, 0 and 1, on which the curve has an interval, it also has one whose
    frequencies equal 0 (equal 1): the ends of a run may be gradual. Else *weak*; so a curve
    without intervals, and every "other" one, is weak.

    Parameters
    ----------
    position_fires : integer [F, T]
        Neurons that passed `is_positional`; of any other curve the type means nothing.
    sequences : int
    rules : TypeRules

    Returns
    -------
    (type, strength) : object arrays [F] of str
    """
    counts = _checked(position_fires, sequences).astype(np.int64)
    neurons, context = counts.shape
    kinds = np.empty(neurons, dtype=object)
    strengths = np.empty(neurons, dtype=object)
    length, window = rules.interval(context), rules.window(context)
    weak = rules.weak
    for f in range(neurons):
        curve = counts[f, 1:]
        near = (
            weak.denominator * curve <= weak.numerator * sequences,
            weak.denominator * (sequences - curve) <= weak.numerator * sequences,
        )
        exact = (curve == 0, curve == sequences)
        sides = [side for side in (0, 1) if _longest_run(near[side]) >= length]
        if _crossings(curve, window, rules) >= rules.crossings:
            kinds[f] = "oscillatory"
        else:
            kinds[f] = ("other", "one", "both")[len(sides)]
        strong = bool(sides) and all(_longest_run(exact[side]) >= length for side in sides)
        strengths[f] = "strong" if strong else "weak"
    return kinds, strengths


def positional(
    layer: int,
    position_fires: np.ndarray,
    sequences: int,
    *,
    mi: float = MI_THRESHOLD,
    min_sequences: int = MIN_SEQUENCES,
    rules: TypeRules = DEFAULT_RULES,
    information: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the neurons of one layer with I > ``mi``.

    Parameters
    ----------
    layer : int
        Absolute id.
    position_fires : integer [F, T]
    sequences : int
        Full-length sequences counted.
    mi : float
        Threshold, in nats. The paper set 0.05 at T = 2048.
    min_sequences : int
        Below so many sequences the counts decide nothing: no neuron is known to pass, and the
        table has no rows. `is_positional` says None then, which is not the same as False.
    rules : TypeRules
    information : float64 [F], optional
        `mutual_information`, when it is known already.

    Returns
    -------
    dict
        ``layer, neuron, mi, mi_without_bos, bias``, ``type`` and ``strength`` (object arrays of
        str), ``sequences``; one row per neuron, ascending. Tables of several layers may be joined
        column by column with `numpy.concatenate`.
    """
    counts = _checked(position_fires, sequences)
    known = mutual_information(counts, sequences) if information is None else information
    if known.shape != counts.shape[:1]:
        message = (
            f"positional: information has shape {list(known.shape)}, expected [{counts.shape[0]}] "
            "(F of position_fires)"
        )
        raise ShapeError(message)
    passes = is_positional(known, sequences, mi=mi, min_sequences=min_sequences)
    neuron = np.zeros(0, dtype=np.int64) if passes is None else np.flatnonzero(passes)
    curves = counts[neuron]
    kinds, strengths = classify(curves, sequences, rules)
    return {
        "layer": np.full(neuron.size, layer, dtype=np.int64),
        "neuron": neuron,
        "mi": known[neuron],
        "mi_without_bos": mi_without_bos(curves, sequences),
        "bias": np.full(neuron.size, bias(sequences)),
        "type": kinds,
        "strength": strengths,
        "sequences": np.full(neuron.size, sequences, dtype=np.int64),
    }


def firing_ranges(
    position_fires: np.ndarray,
    sequences: int,
    *,
    share: float | str | Fraction = Fraction(1, 2),
    least: int = 1,
    first: int = 1,
) -> list[tuple[int, int]]:
    """Return the ranges of positions on which one neuron fires.

    Parameters
    ----------
    position_fires : integer [T]
    sequences : int
    share : share
        A position belongs to a range when the frequency there is at least so large.
    least : int
        Shorter runs are left out.
    first : int
        Positions before this one are left out (0 is BOS).

    Returns
    -------
    list of (first, last)
        Both inclusive, ascending.
    """
    exact = exact_share(share)
    curve = _checked(np.asarray(position_fires)[None], sequences)[0, first:].astype(np.int64)
    starts, ends = _runs(exact.denominator * curve >= exact.numerator * max(sequences, 1))
    return [
        (int(a) + first, int(b) - 1 + first)
        for a, b in zip(starts, ends, strict=True)
        if b - a >= least
    ]


def _checked(position_fires: np.ndarray, sequences: int) -> np.ndarray:
    counts = np.asarray(position_fires)
    if counts.ndim != 2 or counts.dtype.kind not in "iu":
        message = (
            f"position_fires has shape {list(counts.shape)} and dtype {counts.dtype}, "
            "expected [F, T] and integers"
        )
        raise ShapeError(message)
    if counts.size and (int(counts.max()) > sequences or int(counts.min()) < 0):
        message = (
            f"position_fires holds {int(counts.min())} to {int(counts.max())} fires at a position, "
            f"expected 0 to {sequences} (sequences)"
        )
        raise IntegrityError(message)
    return counts


def _by_count(counts: np.ndarray, sequences: int) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and how often each neuron has them, which can be broadcast: int64 [F, any]."""
    neurons, context = counts.shape
    if context <= 2 * (sequences + 1):
        # In this order of memory, which the order of sums depends on.
        return counts.astype(np.int64, order="C"), np.ones(counts.shape, dtype=np.int64)
    cells = counts + np.arange(neurons)[:, None] * (sequences + 1)
    times = np.bincount(cells.ravel(order="K"), minlength=neurons * (sequences + 1))
    return np.arange(sequences + 1)[None], times.reshape(neurons, -1)


def _runs(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends (exclusive) of the runs of True."""
    edges = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _longest_run(flags: np.ndarray) -> int:
    starts, ends = _runs(flags)
    return int((ends - starts).max()) if starts.size else 0


def _crossings(curve: np.ndarray, window: int, rules: TypeRules) -> int:
    """Count how often the moving average goes from below ``low`` to above ``high``, or back."""
    window = min(window, curve.size)
    if window == 0:
        return 0
    sums = np.cumsum(np.concatenate([[0], curve]))
    smooth = sums[window:] - sums[:-window]  # window * sequences * frequency, an integer
    height = smooth - smooth.min()
    span = int(height.max())
    below = rules.low.denominator * height < rules.low.numerator * span
    above = rules.high.denominator * height > rules.high.numerator * span
    sides = np.where(above, 1, np.where(below, -1, 0))
    sides = sides[sides != 0]
    return int((np.diff(sides) != 0).sum())
