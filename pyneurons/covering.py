"""The covering number, in integers: shared by the observers and the analysis (definition 3)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from pyneurons.errors import InputError

DEFAULT_SHARE = Fraction(19, 20)


def exact_share(share: float | str | Fraction, name: str = "share") -> Fraction:
    """Return a share between 0 and 1 as an exact fraction (0.95 is 19/20, as it is written)."""
    try:
        exact = share if isinstance(share, Fraction) else Fraction(str(share))
    except ValueError as error:
        message = f"{name}: {share!r} is not a number"
        raise InputError(message) from error
    if not 0 < exact <= 1 or exact.denominator > 10**6:
        # 10^6 * 10^12 tokens is still inside 64 bits, in which the integer tests are made.
        message = f"{name}: {share} is not a share in (0, 1] of at most six decimals"
        raise InputError(message)
    return exact


def covering_number(
    offsets: np.ndarray,
    count: np.ndarray,
    number: np.ndarray,
    total: np.ndarray,
    share: Fraction = DEFAULT_SHARE,
) -> np.ndarray:
    """Return the least number of n-grams that hold at least ``share`` of each neuron's fires.

    With the n-grams sorted by fires, c_1 >= c_2 >= ..., the covering number is
    ``min { k : den * (c_1 + ... + c_k) >= num * A }``, share = num / den; 0 when A = 0.

    Parameters
    ----------
    offsets : int64 [F+1]
        Neuron f owns the entries offsets[f] <= i < offsets[f+1].
    count, number : int64
        ``number[i]`` n-grams on each of which the neuron fires ``count[i]`` times; counts ascend
        within a neuron.
    total : int64 [F]
        A_n, the neuron's fires at countable positions.
    share : Fraction

    Returns
    -------
    int64 [F]

    Notes
    -----
    Integers only: a float 0.95 is wrong on ties. Cost: two sums over the entries, and a search in them for each neuron.
    """
    neurons = offsets.size - 1
    result = np.zeros(neurons, dtype=np.int64)
    if count.size == 0:
        return result
    num, den = share.numerator, share.denominator
    mass_sum, item_sum = np.cumsum(count * number), np.cumsum(number)
    need = -(-num * total // den)  # least integer mass that satisfies the test
    owner = np.flatnonzero((offsets[1:] > offsets[:-1]) & (need > 0))
    # Within a neuron, entry i and those above it (larger counts) hold all but what is below it.
    # The sums ascend over all neurons, so that the least i that leaves out too much is a search.
    ends = offsets[1:][owner] - 1
    at = np.searchsorted(mass_sum, mass_sum[ends] - need[owner], side="right")
    holds = (at >= offsets[owner]) & (at <= ends)
    at, ends, owner = at[holds], ends[holds], owner[holds]
    mass_above, items_above = mass_sum[ends] - mass_sum[at], item_sum[ends] - item_sum[at]
    result[owner] = items_above - (-(need[owner] - mass_above) // count[at])
    return result
