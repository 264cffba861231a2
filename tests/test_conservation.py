"""Each conservation law by itself: numbers that break it and no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyneurons.conservation import broken_laws

TOKENS = 10


def counters() -> dict[str, np.ndarray]:
    """Two domains, context 3, four neurons: always on, sometimes, sometimes, dead."""
    position = np.array([[[3, 1, 0, 0], [1, 0, 0, 0]], [[3, 2, 1, 0], [1, 0, 0, 0]]])
    partial = np.array([[1, 0, 0, 0], [1, 0, 1, 0]])
    domain = position.sum(axis=1) + partial
    return {
        "position_fires": position,
        "partial_fires": partial,
        "domain_fires": domain,
        "fires": domain.sum(axis=0),
        "bos_fires": np.array([2, 1, 0, 0]),
        "separator_fires": np.array([1, 0, 1, 0]),
        "z_max": np.array([2.0, 1.0, 0.5, -1.0]),
        "first_fire": np.array([0, 4, 5, -1]),
        "provably_dead": np.array([False, False, False, True]),
        "provably_on": np.array([True, False, False, False]),
    }


def histogram() -> tuple[Any, np.ndarray]:
    """Neuron 0 fires 3 times on each of 2 n-grams and once on one; neuron 1 once on 3."""
    offsets, count, number = np.array([0, 2, 3, 3, 3]), np.array([3, 1, 1]), np.array([2, 1, 3])
    return (offsets, count, number), np.array([7, 3, 0, 0])


def test_what_adds_up_breaks_no_law() -> None:
    assert broken_laws(counters(), {1: histogram()}, TOKENS) == {}


@pytest.mark.parametrize(
    ("law", "changes"),
    [
        ("position fires", {"partial_fires": (0, 1, 1)}),
        ("the fires of all domains", {"partial_fires": (0, 1, 1), "domain_fires": (0, 1, 2)}),
        ("fires at BOS", {"bos_fires": (1, 9)}),
        ("a neuron fires exactly when", {"z_max": (1, -0.5)}),
        ("a neuron fires exactly when", {"z_max": (3, 0.5)}),
        ("a neuron that fires has", {"first_fire": (1, -1)}),
        ("a neuron that fires has", {"first_fire": (3, 2)}),
        ("a provably dead", {"provably_dead": (2, True)}),
        ("a provably active", {"provably_on": (1, True)}),
    ],
)
def test_each_law_is_looked_at(law: str, changes: dict[str, tuple[Any, ...]]) -> None:
    arrays = counters()
    for name, (*place, value) in changes.items():
        arrays[name][tuple(place)] = value
    wrong = broken_laws(arrays, {1: histogram()}, TOKENS)
    assert [statement for statement in wrong if not statement.startswith(law)] == []
    assert len(wrong) == 1
    neuron = [*changes.values()][-1][-2]
    assert np.argwhere(next(iter(wrong.values())))[0][-1] == neuron


def test_the_laws_of_n_grams() -> None:
    (offsets, count, number), fires = histogram()
    wrong = broken_laws(
        counters(), {2: ((offsets, count, number), fires + np.eye(4, dtype=int)[2])}, TOKENS
    )
    assert list(wrong) == ["the counts of all 2-grams add up to A_2"]
    arrays = counters()
    more = np.array([3, 1, 4]), np.array([2, 1, 1])
    wrong = broken_laws(arrays, {2: ((offsets, *more), np.array([7, 4, 0, 0]))}, TOKENS)
    assert list(wrong) == ["A_2 is at most the fires"]
    # A product that wraps, so that the sum agrees.
    more = np.array([3, 1, 2**62]), np.array([2, 1, 4])
    wrong = broken_laws(arrays, {2: ((offsets, *more), np.array([7, 0, 0, 0]))}, TOKENS)
    assert list(wrong) == ["no 2-grams have more fires than positions were run"]


def test_sums_of_counters_that_wrap() -> None:
    """Domains of 2^63 + 5 and 2^63 + 0 fires: their sum is right again."""
    arrays = counters()
    for name in ("domain_fires", "partial_fires"):
        arrays[name] = arrays[name].astype(np.uint64)
        arrays[name][:, 0] += np.uint64(2**63)
    wrong = broken_laws(arrays, {}, TOKENS)
    assert "no counter is above the positions run" in wrong


def test_a_neuron_fires_at_most_once_a_position() -> None:
    wrong = broken_laws(counters(), {}, TOKENS - 1)
    assert list(wrong) == ["a neuron fires at most once a position"]
