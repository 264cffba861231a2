"""N-gram detectors, and how many chance alone would make (definition 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pyneurons.covering import DEFAULT_SHARE, exact_share
from pyneurons.errors import InputError, IntegrityError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from fractions import Fraction

TOKEN_LIMIT: Final = 5
NGRAM_LIMIT: Final = 50
"""K: the largest covering number of a detector, for tokens and for longer n-grams."""

SUPPORT_OCCURRENCES: Final = 5
"""Fires on covered n-grams that occur at least so often are a detector's support."""

DRAWS: Final = 200
"""Random neurons drawn for each A_n by `expected_detectors`."""

NEGLIGIBLE: Final = 1e-12
"""A probability below this is taken as 0 by `expected_detectors`, after a proof of the bound."""

_NEVER: Final = np.iinfo(np.int64).max
_DRAWN_AT_ONCE = 1 << 22  # positions; 32 MiB
_TILTS = np.geomspace(1e-6, 64.0, 64)


def default_limit(n: int) -> int:
    """Return K: 5 for tokens, 50 for longer n-grams."""
    return TOKEN_LIMIT if n == 1 else NGRAM_LIMIT


def detectors(
    ngrams: Mapping[str, np.ndarray],
    *,
    layers: Sequence[int],
    fires: np.ndarray,
    ngram_fires: np.ndarray,
    covering: np.ndarray,
    n: int,
    K: int | None = None,
    coverage: float | str | Fraction = DEFAULT_SHARE,
    precision: float | str | Fraction = DEFAULT_SHARE,
    min_count: int = 1,
    strings: Sequence[str | None] = (),
    exact: np.ndarray | None = None,
) -> dict[str, Any]:
    """Find the neurons that detect n-grams.

    A neuron is a detector when (a) its covering number is between 1 and K, and (c) its covered
    n-grams together hold at least ``coverage`` of its A_n fires; (b) an n-gram that occurs at
    least ``min_count`` times is covered when the neuron fires on at least ``precision`` of its
    occurrences.

    Parameters
    ----------
    ngrams : dict of arrays, one row per (neuron, n-gram)
        ``layer, neuron, fires, occurrences, rank, complete`` and the tokens ``t0 .. t(n-1)``.
        ``rank`` orders a neuron's n-grams with equally many fires. ``complete`` is true on the
        rows of a neuron all of whose n-grams (one fire and more) are listed; a list that holds
        all A_n fires is as good.
    layers : sequence of int
        Absolute ids of the rows of the next three arrays.
    fires : int64 [L, F]
        All fires.
    ngram_fires : int64 [L, F]
        A_n, the fires where a countable n-gram ends.
    covering : int64 [L, F]
        Covering numbers at the share ``coverage``.
    n : int
    K : int, optional
        Default 5 for n = 1 and 50 for n >= 2.
    coverage, precision : share
        Taken as exact fractions: 0.95 is 19/20.
    min_count : int
        Restricts (b) only.
    strings : sequence of str or None
        The string of each token id; empty without a tokenizer.
    exact : bool [L, F], optional
        False for neurons of a merged run of which the n-grams are known in bounds only: ``covering``
        and the ``fires`` of their rows are the least possible. Default: all are exact.

    Returns
    -------
    dict
        One row per detector, by layer and neuron: ``layer, neuron, n, fires, ngram_fires,
        covering``; ``covered``, a list of token-id lists, most fires first; ``strings``, their
        strings (None without a tokenizer); ``coverage``, the share of A_n that they hold;
        ``min_occurrences``, the least of their occurrences; ``support``, the fires on those of
        them that occur at least 5 times; ``exact``. A neuron that is not exact and may pass (a) has
        a row with ``exact`` false: it may be a detector or not, ``covered`` are the n-grams that it
        covers for certain, and numbers are the least possible.

    Raises
    ------
    InputError
        An exact neuron that passes (a) has no complete list, so that (b) cannot be decided exactly.
    IntegrityError
        A complete list contradicts A_n or the covering number.
    """
    rule = _Rule.of(n, K, coverage, precision, min_count)
    ids = np.asarray(layers, dtype=np.int64)
    fires, ngram_fires, covering = (np.asarray(a) for a in (fires, ngram_fires, covering))
    for name, array in (("fires", fires), ("ngram_fires", ngram_fires), ("covering", covering)):
        if array.ndim != 2 or array.shape != (ids.size, fires.shape[-1]):
            message = (
                f"detectors: {name} has shape {list(array.shape)}, "
                f"expected [{ids.size}, F] (layers, neurons)"
            )
            raise ShapeError(message)
    width = fires.shape[1]
    exact = np.ones(fires.shape, dtype=np.bool_) if exact is None else np.asarray(exact)

    passes = (covering >= 1) & (covering <= rule.K)  # (a)
    place = _places(ids, ngrams["layer"]) * width + ngrams["neuron"]
    rows = np.flatnonzero(passes.reshape(-1)[place])
    order = np.lexsort((ngrams["rank"][rows], -ngrams["fires"][rows].astype(np.int64), place[rows]))
    rows = rows[order]
    place = place[rows]
    row_fires = ngrams["fires"][rows].astype(np.int64)
    occurrences = ngrams["occurrences"][rows].astype(np.int64)
    wanted = np.flatnonzero(passes.reshape(-1))
    total = ngram_fires.reshape(-1)[wanted].astype(np.int64)
    known = exact.reshape(-1)[wanted]
    names = [f"{ids[i // width]}.{i % width}" for i in wanted]
    owner = np.searchsorted(wanted, place)
    _check_whole(names, owner, row_fires, ngrams["complete"][rows], total, known, rule)
    judged = _judge(place, row_fires, occurrences, total, rule)
    expected = covering.reshape(-1)[wanted]
    contradicts = known & (judged.covering != expected)
    if contradicts.any():
        first = int(np.flatnonzero(contradicts)[0])
        message = (
            f"detectors: the n-grams of neuron {names[first]} give the covering number "
            f"{int(judged.covering[first])} at a share of {rule.coverage}, "
            f"expected {int(expected[first])}"
        )
        raise IntegrityError(message)

    tokens = np.stack([ngrams[f"t{j}"][rows] for j in range(n)], axis=1).astype(np.int64)
    keep = np.flatnonzero(judged.holds | ~known)
    some = judged.least[keep] < _NEVER  # not all that are not exact cover an n-gram for certain
    covered: list[list[list[int]]] = []
    for i in keep:
        mine = slice(judged.starts[i], judged.ends[i])
        covered.append(tokens[mine][judged.covered[mine]].tolist())
    chosen = wanted[keep]
    return {
        "layer": ids[chosen // width],
        "neuron": chosen % width,
        "n": np.full(chosen.size, n, dtype=np.int64),
        "fires": fires.reshape(-1)[chosen].astype(np.int64),
        "ngram_fires": total[keep].astype(np.int64),
        "covering": expected[keep].astype(np.int64),
        "covered": covered,
        "strings": [_strings(lists, strings) for lists in covered],
        "coverage": judged.held[keep] / np.maximum(total[keep], 1),
        "min_occurrences": np.where(some, judged.least[keep], 0),
        "support": judged.support[keep],
        "exact": known[keep],
    }


def supported(table: Mapping[str, Any]) -> np.ndarray:
    """Return which detectors are supported: ``20 * support >= 19 * A_n``, bool."""
    return np.asarray(20 * np.asarray(table["support"]) >= 19 * np.asarray(table["ngram_fires"]))


def decided(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of a table of `detectors` that are exact: the certain detectors."""
    keep = np.flatnonzero(table["exact"])
    return {
        name: values[keep] if isinstance(values, np.ndarray) else [values[i] for i in keep]
        for name, values in table.items()
    }


def roles(tables: Mapping[int, Mapping[str, Any]], layers: Sequence[int], width: int) -> np.ndarray:
    """Return each neuron's role, the smallest n for which it is a detector.

    Parameters
    ----------
    tables : dict of detector tables by n
    layers : sequence of int
        Absolute ids of the rows of the answer.
    width : int
        F.

    Returns
    -------
    int64 [L, F]
        0 where the neuron detects nothing; -1 where a row that is not exact leaves it open.
    """
    role = np.zeros((len(layers), width), dtype=np.int64)
    for n in sorted(tables, reverse=True):
        table = tables[n]
        place = _places(np.asarray(layers), table["layer"]), table["neuron"]
        role[place] = np.where(table["exact"], n, -1)
    return role


# ----- the test itself ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rule:
    """The parameters of definition 4, checked."""

    K: int
    coverage: Fraction
    precision: Fraction
    min_count: int

    @classmethod
    def of(
        cls,
        n: int,
        K: int | None,
        coverage: float | str | Fraction,
        precision: float | str | Fraction,
        min_count: int,
    ) -> _Rule:
        K = default_limit(n) if K is None else K
        if K < 1 or min_count < 1:
            message = f"detectors: K is {K} and min_count {min_count}, expected at least 1 for both"
            raise InputError(message)
        shares = exact_share(coverage, "coverage"), exact_share(precision, "precision")
        return cls(K, *shares, min_count)


@dataclass(frozen=True)
class _Judged:
    """What `_judge` says of each neuron (all [groups], but ``covered`` [rows])."""

    starts: np.ndarray
    ends: np.ndarray
    covering: np.ndarray
    covered: np.ndarray
    held: np.ndarray
    least: np.ndarray
    support: np.ndarray
    holds: np.ndarray


def _judge(
    group: np.ndarray,
    fires: np.ndarray,
    occurrences: np.ndarray,
    total: np.ndarray,
    rule: _Rule,
) -> _Judged:
    """Apply (b) and (c) to complete lists, and find their covering numbers.

    ``group`` ascends, one value per neuron, fires descend within a group; ``total [groups]``.
    The real neurons and the random ones of `expected_detectors` both come through here.
    """
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]])[: group.size])
    ends = np.append(starts[1:], group.size)[: starts.size]
    owner = np.repeat(np.arange(starts.size), ends - starts)
    running = np.cumsum(fires)
    running -= (running - fires)[starts][owner]
    need = _least_integer(rule.coverage, total)
    covered = (occurrences >= rule.min_count) & (
        fires >= _least_integer(rule.precision, occurrences)
    )
    often = covered & (occurrences >= SUPPORT_OCCURRENCES)

    def total_of(values: np.ndarray) -> np.ndarray:
        sums = np.add.reduceat(values, starts) if starts.size else np.zeros(0)
        return sums.astype(np.int64)

    held = total_of(fires * covered)
    least = np.where(covered, occurrences, _NEVER)
    return _Judged(
        starts,
        ends,
        covering=total_of(running < need[owner]) + (need > 0),
        covered=covered,
        held=held,
        least=np.minimum.reduceat(least, starts) if starts.size else np.zeros(0, dtype=np.int64),
        support=total_of(fires * often),
        holds=(total > 0) & (held >= need),
    )


def _least_integer(share: Fraction, values: np.ndarray) -> np.ndarray:
    """Return the least integer k with ``k >= share * value``, exactly, for integers >= 0."""
    num, den = share.numerator, share.denominator
    distinct, place = np.unique(values, return_inverse=True)
    # Python integers: a share written with 17 digits times a count of 10^9 is past 2^63.
    least = np.array([-(-num * int(value) // den) for value in distinct], dtype=np.int64)
    return least[place.reshape(values.shape)]


def _places(layers: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return the row of each absolute layer id."""
    asked = np.asarray(asked, dtype=np.int64)
    if layers.size == 0 and asked.size == 0:
        return asked
    order = np.argsort(layers)
    at = np.searchsorted(layers, asked, sorter=order)
    place = order[np.minimum(at, layers.size - 1)]
    if (layers[place] != asked).any():
        missing = sorted(set(asked.tolist()) - set(layers.tolist()))
        message = f"the table has rows of layers {missing}, which are not among {layers.tolist()}"
        raise InputError(message)
    return np.asarray(place)


def _check_whole(
    names: list[str],
    owner: np.ndarray,
    fires: np.ndarray,
    complete: np.ndarray,
    total: np.ndarray,
    exact: np.ndarray,
    rule: _Rule,
) -> None:
    """Refuse lists that do not hold all A_n fires, of neurons that are exact."""
    listed = np.zeros(total.size, dtype=np.int64)
    np.add.at(listed, owner, fires)
    broken = np.flatnonzero(exact & (listed != total))
    if not broken.size:
        return
    said = np.zeros(total.size, dtype=np.bool_)
    said[owner[complete.astype(np.bool_)]] = True
    for i in broken:
        if said[i] or listed[i] > total[i]:
            message = (
                f"detectors: the n-grams of neuron {names[i]} hold {int(listed[i])} fires, "
                f"expected {int(total[i])} (ngram_fires)"
            )
            raise IntegrityError(message)
    message = (
        f"detectors: with K = {rule.K} and coverage = {rule.coverage} the run does not hold all "
        f"n-grams of {broken.size} neurons that must be judged ({names[broken[0]]} first), so the "
        "answer would not be exact; ask for a smaller K or a larger coverage, or scan again with "
        "a larger list_limit"
    )
    raise InputError(message)


def _strings(ngrams: list[list[int]], strings: Sequence[str | None]) -> list[str | None] | None:
    if not strings:
        return None
    joined: list[str | None] = []
    for ngram in ngrams:
        parts = [strings[token] if token < len(strings) else None for token in ngram]
        known = [part for part in parts if part is not None]
        joined.append("".join(known) if len(known) == len(parts) else None)
    return joined


# ----- what chance makes --------------------------------------------------------------------------


@dataclass(frozen=True)
class ExpectedDetectors:
    """How many detectors chance makes, and the standard error of that number.

    Arrays have one value per row of ``ngram_fires``; the totals are over all of it. The errors are
    those of the estimate (of the draws), not the spread of the number itself.
    """

    every: np.ndarray
    every_error: np.ndarray
    supported: np.ndarray
    supported_error: np.ndarray
    total: float
    total_error: float
    total_supported: float
    total_supported_error: float
    simulated: int
    """How many distinct A_n were drawn; the others are exact (A_n = 1) or negligible."""


def expected_detectors(
    ngram_fires: np.ndarray,
    occurrences: np.ndarray,
    number: np.ndarray,
    *,
    n: int,
    K: int | None = None,
    coverage: float | str | Fraction = DEFAULT_SHARE,
    precision: float | str | Fraction = DEFAULT_SHARE,
    min_count: int = 1,
    draws: int = DRAWS,
    seed: int = 0,
) -> ExpectedDetectors:
    """Return how many detectors there would be if the neurons fired at random.

    A random neuron with A_n fires has them at A_n distinct positions, every set of countable
    positions equally likely. The expected number is the sum, over the neurons given, of the
    probability that such a neuron is a detector; it depends on A_n alone and is estimated by
    ``draws`` random neurons for each distinct A_n, judged by the code that judges the real ones.

    Parameters
    ----------
    ngram_fires : int64 [..., F]
        A_n of the neurons to compare with; dead ones add nothing.
    occurrences, number : int64 [K]
        The spectrum: ``number[i]`` distinct n-grams occur ``occurrences[i]`` times.
    n, K, coverage, precision, min_count
        As for `detectors`.
    draws : int
    seed : int
        The draws for one A_n follow from (seed, n, A_n) alone, so that a neuron's probability
        does not depend on which others are there.

    Returns
    -------
    ExpectedDetectors

    Notes
    -----
    A_n = 1 needs no draw: such a neuron is a detector when its one fire is on an n-gram that
    occurs once (and 1 >= precision * occurrences in general), so the probability is a share of
    positions.

    Larger A_n are skipped when one of two bounds on the probability is below 1e-12. Let M be the
    number of positions, G of n-grams, m_g the occurrences of g and X_g its fires; (X_g) is
    multivariate hypergeometric, q = A / M.

    1. By (a) some set S of min(K, G) n-grams has X_S >= a = ceil(coverage * A). For a fixed S, X_S
       is hypergeometric and its share of positions at most p, that of the K most frequent n-grams.
       Chernoff's bound holds for draws without replacement (Hoeffding 1963, section 6):
       P(X_S >= a) <= exp(-A KL(a/A || p)). The sets number C(G, K), because a random neuron may
       choose any: the K most frequent n-grams alone would not bound it. Hence
       log P <= log C(G, K) - A KL(a/A || p).
    2. By (b) and (c) the covered n-grams hold a fires: W = sum_g m_g [X_g >= k_g] >= a, with
       k_g = ceil(precision * m_g), over m_g >= min_count. The X_g are negatively associated
       (Joag-Dev and Proschan 1983), rising functions of different X_g stay so, and so for t > 0
       P(W >= a) <= exp(-t a) prod_g (1 + p_g (exp(t m_g) - 1)), where P(X_g >= k_g) <= p_g =
       exp(-m_g KL(k_g/m_g || q)), again by Hoeffding. The least over a grid of t is taken, once
       for each range of A (5 % wide), with the range's least a and largest q.

    Cost: ``draws`` * A_n for every distinct A_n that is not skipped; a few hundred on text.
    """
    rule = _Rule.of(n, K, coverage, precision, min_count)
    ngram_fires = np.asarray(ngram_fires, dtype=np.int64)
    spectrum = _Spectrum.of(occurrences, number)
    distinct, place = np.unique(ngram_fires, return_inverse=True)
    if distinct.size and int(distinct[-1]) > spectrum.positions:
        message = (
            f"expected_detectors: a neuron has {int(distinct[-1])} fires at the "
            f"{spectrum.positions} countable positions of n = {n}"
        )
        raise IntegrityError(message)
    chance = np.zeros((2, distinct.size))  # of a detector, of a supported one
    error = np.zeros((2, distinct.size))  # variance of the estimate
    simulate = (distinct > 1) & ~_negligible(spectrum, distinct, rule)
    if (distinct == 1).any():
        # ceil(precision * m) <= 1, and K >= 1, coverage <= 1 hold for a single fire.
        alone = (_least_integer(rule.precision, spectrum.occurrences) <= 1) & (
            spectrum.occurrences >= rule.min_count
        )
        often = alone & (spectrum.occurrences >= SUPPORT_OCCURRENCES)
        for row, which in enumerate((alone, often)):
            chance[row, distinct == 1] = spectrum.mass[which].sum() / spectrum.positions
    for i in np.flatnonzero(simulate):
        random = np.random.default_rng([seed, n, int(distinct[i])])
        hits = _draw(spectrum, int(distinct[i]), draws, random, rule)
        chance[:, i] = hits / draws
        error[:, i] = chance[:, i] * (1 - chance[:, i]) / draws
    # The draws of one A_n serve all its neurons, in all layers: their errors add up, then square.
    shape = ngram_fires.shape[:-1]
    likely = np.flatnonzero(chance.any(axis=0))
    column = np.full(distinct.size, -1)
    column[likely] = np.arange(likely.size)
    column = column[place.reshape(math.prod(shape), -1)]
    rows = np.arange(math.prod(shape))[:, None] * likely.size
    neurons = np.bincount((rows + column)[column >= 0], minlength=math.prod(shape) * likely.size)
    neurons = neurons.reshape(math.prod(shape), likely.size).astype(np.float64)
    chance, error = chance[:, likely], error[:, likely]
    expected, spread = neurons @ chance.T, np.sqrt(neurons**2 @ error.T)
    everywhere = neurons.sum(axis=0)
    total, total_spread = everywhere @ chance.T, np.sqrt(everywhere**2 @ error.T)
    return ExpectedDetectors(
        expected[:, 0].reshape(shape),
        spread[:, 0].reshape(shape),
        expected[:, 1].reshape(shape),
        spread[:, 1].reshape(shape),
        float(total[0]),
        float(total_spread[0]),
        float(total[1]),
        float(total_spread[1]),
        int(simulate.sum()),
    )


@dataclass(frozen=True)
class _Spectrum:
    """How many n-grams occur how often, occurrences ascending."""

    occurrences: np.ndarray
    number: np.ndarray
    mass: np.ndarray
    mass_before: np.ndarray
    number_before: np.ndarray
    positions: int
    ngrams: int

    @classmethod
    def of(cls, occurrences: np.ndarray, number: np.ndarray) -> _Spectrum:
        occurrences = np.asarray(occurrences, dtype=np.int64)
        number = np.asarray(number, dtype=np.int64)
        if occurrences.shape != number.shape or occurrences.ndim != 1:
            message = (
                f"spectrum: occurrences has shape {list(occurrences.shape)} and number "
                f"{list(number.shape)}, expected [K] for both"
            )
            raise ShapeError(message)
        order = np.argsort(occurrences)
        occurrences, number = occurrences[order], number[order]
        mass = occurrences * number
        return cls(
            occurrences,
            number,
            mass,
            np.cumsum(mass) - mass,
            np.cumsum(number) - number,
            int(mass.sum()),
            int(number.sum()),
        )

    def top_mass(self, K: int) -> int:
        """Return how many positions the K most frequent n-grams have."""
        taken = np.clip(K - (self.ngrams - self.number_before - self.number), 0, self.number)
        return int((taken * self.occurrences).sum())


def _draw(
    spectrum: _Spectrum,
    fires: int,
    draws: int,
    random: np.random.Generator,
    rule: _Rule,
) -> np.ndarray:
    """Return how many of ``draws`` random neurons are (detectors, supported detectors)."""
    hits = np.zeros(2, dtype=np.int64)
    at_once = max(1, _DRAWN_AT_ONCE // fires)
    for first in range(0, draws, at_once):
        size = min(at_once, draws - first)
        position = np.stack(
            [
                random.choice(spectrum.positions, fires, replace=False, shuffle=False)
                for _ in range(size)
            ]
        )
        # Positions lie n-gram by n-gram, in the order of the spectrum.
        kind = np.searchsorted(spectrum.mass_before, position, side="right") - 1
        ngram = (
            spectrum.number_before[kind]
            + (position - spectrum.mass_before[kind]) // spectrum.occurrences[kind]
        )
        key = ngram + np.arange(size)[:, None] * spectrum.ngrams
        key, count = np.unique(key, return_counts=True)
        group, ngram = np.divmod(key, spectrum.ngrams)
        kind = np.searchsorted(spectrum.number_before, ngram, side="right") - 1
        order = np.lexsort((ngram, -count, group))
        total = np.full(size, fires, dtype=np.int64)
        occurrences = spectrum.occurrences[kind]
        judged = _judge(group[order], count[order], occurrences[order], total, rule)
        detects = judged.holds & (judged.covering <= rule.K)
        hits[0] += detects.sum()
        hits[1] += (detects & (20 * judged.support >= 19 * total)).sum()
    return hits


def _negligible(spectrum: _Spectrum, distinct: np.ndarray, rule: _Rule) -> np.ndarray:
    """Return for which A_n a random neuron is a detector with probability below 1e-12, proven."""
    limit = math.log(NEGLIGIBLE)
    out: np.ndarray = np.equal(distinct, 0)
    if spectrum.positions == 0:
        return out
    need = _least_integer(rule.coverage, distinct)
    some = np.flatnonzero(~out)
    taken = min(rule.K, spectrum.ngrams)
    sets = (
        math.lgamma(spectrum.ngrams + 1)
        - math.lgamma(taken + 1)
        - math.lgamma(spectrum.ngrams - taken + 1)
    )
    share = spectrum.top_mass(taken) / spectrum.positions
    out[some] = sets - distinct[some] * _divergence(need[some] / distinct[some], share) < limit

    least = _least_integer(rule.precision, spectrum.occurrences)
    usable = (spectrum.occurrences >= rule.min_count) & (spectrum.number > 0)
    m, number, least = spectrum.occurrences[usable], spectrum.number[usable], least[usable]
    left = np.flatnonzero(~out)
    ranges = np.floor(np.log(np.maximum(distinct[left], 1)) / math.log(1.05))
    for one in np.unique(ranges):
        mine = left[ranges == one]
        rate = int(distinct[mine].max()) / spectrum.positions
        hit = np.minimum(-m * _divergence(least / m, rate), 0.0)  # log p_g
        with np.errstate(divide="ignore"):
            miss = np.log(-np.expm1(hit))
        tilted = np.logaddexp(miss[None], hit[None] + _TILTS[:, None] * m[None]) @ number
        out[mine] = (tilted - _TILTS * int(need[mine].min())).min() < limit
    return out


def _divergence(a: np.ndarray, p: float) -> np.ndarray:
    """Return KL(a || p) of two coins in nats where a > p, else 0 (no bound)."""
    a = np.asarray(a, dtype=np.float64)
    if p >= 1.0:
        return np.zeros_like(a)
    up = a * np.log(np.maximum(a, 1e-300) / p)
    down = np.where(a < 1.0, (1.0 - a) * np.log(np.maximum(1.0 - a, 1e-300) / (1.0 - p)), 0.0)
    divergence: np.ndarray = np.where(a > p, up + down, 0.0)
    return divergence
