"""Dead neurons, firing frequencies and proofs from the weights (definitions 1 and 9)."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyneurons.errors import InputError, IntegrityError, ShapeError


def dead(fires: np.ndarray) -> np.ndarray:
    """Return which neurons never fired: ``fires == 0``, bool, the shape of ``fires``."""
    silent: np.ndarray = np.equal(fires, 0)
    return silent


def frequency(fires: np.ndarray, tokens: int) -> np.ndarray:
    """Return ``fires / tokens``, float64, the shape of ``fires``.

    Parameters
    ----------
    fires : int64 [..., F]
        Fires at every position that was run, BOS and separators included.
    tokens : int
        Every position that was run, BOS and separators included.

    Raises
    ------
    InputError
        Without tokens there is no frequency.
    IntegrityError
        A neuron fired more often than there are tokens.
    """
    fires = np.asarray(fires)
    if tokens < 1:
        message = f"frequency: tokens is {tokens}, expected at least 1"
        raise InputError(message)
    if fires.size and int(fires.max()) > tokens:
        message = f"frequency: a neuron fires {int(fires.max())} times on {tokens} tokens"
        raise IntegrityError(message)
    return np.asarray(fires / tokens, dtype=np.float64)


def mean_alive_frequency(fires: np.ndarray, tokens: int) -> np.ndarray:
    """Return the mean frequency of the neurons that are not dead, one number per layer.

    Parameters
    ----------
    fires : int64 [..., F]
    tokens : int

    Returns
    -------
    float64 [...]
        NaN where every neuron of the layer is dead.
    """
    rates = frequency(fires, tokens)
    alive = ~dead(fires)
    number = alive.sum(axis=-1)
    total = rates.sum(axis=-1)
    mean = np.full(number.shape, np.nan)
    np.divide(total, number, out=mean, where=number > 0)
    return mean


def dead_share(first_fire: np.ndarray, tokens_seen: np.ndarray) -> np.ndarray:
    """Return the share of neurons that had not fired after so many tokens, exactly.

    ``share[l, p] = #{f : first_fire[l, f] = -1 or first_fire[l, f] >= tokens_seen[p]} / F``

    Parameters
    ----------
    first_fire : int64 [L, F]
        Index, from 0, of the first token in corpus order on which the neuron fires; -1: never.
    tokens_seen : int64 [P]
        At ``t`` the tokens 0 to t - 1 have been seen.

    Returns
    -------
    float64 [L, P]

    Notes
    -----
    Cost: one sort per layer; no pass over the corpus.
    """
    first_fire = np.asarray(first_fire)
    tokens_seen = np.asarray(tokens_seen)
    if first_fire.ndim != 2 or first_fire.shape[1] == 0:
        message = f"dead_share: first_fire has shape {list(first_fire.shape)}, expected [L, F > 0]"
        raise ShapeError(message)
    neurons = first_fire.shape[1]
    share = np.empty((first_fire.shape[0], tokens_seen.size))
    for row, first in zip(share, first_fire, strict=True):
        fired = np.sort(first[first >= 0])
        row[:] = (neurons - np.searchsorted(fired, tokens_seen, side="left")) / neurons
    return share


def provably_dead(z_sup: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Return which neurons can fire on no input at all: ``z_sup + margin <= 0``."""
    never: np.ndarray = np.add(z_sup, margin) <= 0
    return never


def provably_on(z_inf: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Return which neurons fire on every input: ``z_inf - margin > 0``."""
    always: np.ndarray = np.subtract(z_inf, margin) > 0
    return always


def proofs(
    layers: list[int],
    fires: np.ndarray,
    tokens: int,
    z_max: np.ndarray,
    z_sup: np.ndarray,
    z_inf: np.ndarray,
    margin: np.ndarray,
) -> dict[str, Any]:
    """Compare, layer by layer, what never fired with what can never fire.

    Parameters
    ----------
    layers : list of int
        Absolute ids of the rows.
    fires : int64 [L, F]
    tokens : int
    z_max : float32 [L, F]
        Largest pre-activation seen.
    z_sup, z_inf, margin : float64 [L, F]
        Bounds over all residual vectors and their rounding margin.

    Returns
    -------
    dict
        Columns ``layer, neurons, dead, provably_dead, provably_on, nearest_proof`` (the least
        ``z_sup + margin`` of a dead neuron without a proof: by so much the proof was missed) and
        ``nearest_fire`` (the largest ``z_max`` of a dead neuron: so near it came to firing). The
        last two are NaN where no neuron qualifies.

    Raises
    ------
    IntegrityError
        A proof and a counter contradict each other.
    """
    silent = dead(fires)
    never, always = provably_dead(z_sup, margin), provably_on(z_inf, margin)
    for proven, broken, text in (
        (never, never & ~silent, "can never fire, and fired"),
        (always, always & (np.asarray(fires) != tokens), "always fires, and did not"),
    ):
        if broken.any():
            row, neuron = np.argwhere(broken)[0]
            message = (
                f"proofs: by its weights neuron {layers[row]}.{neuron} {text} "
                f"({int(fires[row, neuron])} fires on {tokens} tokens); "
                f"{int(broken.sum())} of {int(proven.sum())} such proofs are contradicted"
            )
            raise IntegrityError(message)
    missed = np.where(silent & ~never, np.asarray(z_sup) + np.asarray(margin), np.inf).min(axis=-1)
    reached = np.where(silent, np.asarray(z_max, dtype=np.float64), -np.inf).max(axis=-1)
    return {
        "layer": np.asarray(layers, dtype=np.int64),
        "neurons": np.full(len(layers), silent.shape[-1], dtype=np.int64),
        "dead": silent.sum(axis=-1),
        "provably_dead": never.sum(axis=-1),
        "provably_on": always.sum(axis=-1),
        "nearest_proof": np.where((silent & ~never).any(axis=-1), missed, np.nan),
        "nearest_fire": np.where(silent.any(axis=-1), reached, np.nan),
    }
