"""Definition 3: covering numbers from histograms, and their buckets."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from firing_lists import count, histograms, made_up, totals
from pyneurons.analysis.coverage import (
    BUCKET_EDGES,
    bucket_counts,
    bucket_labels,
    covering_number,
    exact_share,
    lower_half,
)
from pyneurons.errors import InputError, ShapeError

SHARES = [Fraction(19, 20), Fraction(1, 2), Fraction(1), Fraction(1, 1000), Fraction(2, 3)]


def slow_covering_number(fires: list[int], share: Fraction) -> int:
    total = sum(fires)
    if total == 0:
        return 0
    held = 0
    for k, value in enumerate(sorted(fires, reverse=True), start=1):
        held += value
        if Fraction(held, total) >= share:
            return k
    raise AssertionError


@pytest.mark.parametrize("share", SHARES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_covering_numbers_are_those_of_a_loop(n: int, share: Fraction):
    rng = np.random.default_rng(n)
    tokens, bits = made_up(rng)
    table = count(tokens, bits, n)
    neurons = bits.shape[1]
    found = covering_number(*histograms(table, neurons), totals(table, neurons), share)
    for f in range(neurons):
        own = table["fires"][table["neuron"] == f].tolist()
        assert found[f] == slow_covering_number(own, share), f
    assert found[-1] == 0


@pytest.mark.parametrize(
    ("fires", "covering"),
    [
        ([19, 1], 1),  # 19 of 20 is exactly the share
        ([18, 1, 1], 2),
        ([95, 5], 1),
        ([949, 51], 2),
        ([950, 50], 1),
        ([1] * 20, 19),
        ([1] * 21, 20),
        ([19 * 10**14, 10**14], 1),
        ([19 * 10**14 - 1, 10**14 + 1], 2),  # as floats both are 0.95
        ([7], 1),
        ([], 0),
    ],
)
def test_the_test_is_exact_on_ties(fires: list[int], covering: int):
    distinct = sorted(set(fires))
    found = covering_number(
        np.array([0, len(distinct)]),
        np.array(distinct, dtype=np.int64),
        np.array([fires.count(value) for value in distinct], dtype=np.int64),
        np.array([sum(fires)], dtype=np.int64),
    )
    assert found.tolist() == [covering]


def test_permuting_neurons_permutes_covering_numbers():
    rng = np.random.default_rng(11)
    tokens, bits = made_up(rng)
    order = rng.permutation(bits.shape[1])
    numbers = []
    for some in (bits, bits[:, order]):
        table = count(tokens, some, 2)
        held = totals(table, some.shape[1])
        numbers.append(covering_number(*histograms(table, some.shape[1]), held))
    np.testing.assert_array_equal(numbers[0][order], numbers[1])


@pytest.mark.parametrize(
    ("share", "exact"),
    [
        (0.95, Fraction(19, 20)),
        ("0.95", Fraction(19, 20)),
        ("19/20", Fraction(19, 20)),
        (np.float64(0.95), Fraction(19, 20)),
        (1, Fraction(1)),
        (Fraction(1, 3), Fraction(1, 3)),
        (0.1, Fraction(1, 10)),
    ],
)
def test_a_share_is_taken_as_it_is_written(share: object, exact: Fraction):
    assert exact_share(share) == exact  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0, -0.5, 1.5, "a", float("nan")])
def test_what_is_no_share_is_refused(share: object):
    with pytest.raises(InputError):
        exact_share(share)  # type: ignore[arg-type]


def test_the_lower_half_is_the_first_half():
    assert lower_half(range(12), 12).tolist() == [True] * 6 + [False] * 6
    assert lower_half([5, 6, 0], 12).tolist() == [True, False, True]
    # An odd number: the layer that begins in the first half is part of it.
    assert lower_half(range(3), 3).tolist() == [True, True, False]
    assert lower_half([0], 1).tolist() == [True]


def test_buckets_hold_the_numbers_that_their_labels_say():
    labels = bucket_labels()
    assert labels == [
        "0", "1-5", "6-10", "11-20", "21-50", "51-200", "201-1k", "1k-2k", "2k-5k", "more than 5k",
    ]  # fmt: skip
    edges = [0, *BUCKET_EDGES]
    for column, (before, last) in enumerate(pairwise(edges), start=1):
        for value in (before + 1, last):
            counts = bucket_counts(np.array([[value]]), np.array([[True]]))
            assert np.flatnonzero(counts[0]).tolist() == [column], value
    for value, column in ((0, 0), (5001, 9), (10**7, 9)):
        counts = bucket_counts(np.array([[value]]), np.array([[True]]))
        assert np.flatnonzero(counts[0]).tolist() == [column]
    assert bucket_labels((1, 2, 7)) == ["0", "1", "2", "3-7", "more than 7"]


@pytest.mark.parametrize("edges", [BUCKET_EDGES, (1,), (3, 4, 1000)])
def test_bucket_counts_are_those_of_a_loop(edges: tuple[int, ...]):
    rng = np.random.default_rng(len(edges))
    covering = np.floor(10 ** (rng.random((5, 67)) * 4.5)).astype(np.int64) - 1
    alive = rng.random(covering.shape) < 0.7
    counts = bucket_counts(covering, alive, edges)
    for layer in range(5):
        expected = [0] * (len(edges) + 2)
        for value, counted in zip(covering[layer], alive[layer], strict=True):
            if counted:
                expected[0 if value == 0 else 1 + sum(value > edge for edge in edges)] += 1
        assert counts[layer].tolist() == expected
    np.testing.assert_array_equal(counts.sum(axis=1), alive.sum(axis=1))


@pytest.mark.parametrize("edges", [(), (0, 5), (5, 5), (7, 3)])
def test_edges_must_ascend(edges: tuple[int, ...]):
    with pytest.raises(InputError, match="edges"):
        bucket_counts(np.zeros((1, 1), int), np.ones((1, 1), bool), edges)


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match=r"alive \[1, 3\]"):
        bucket_counts(np.zeros((1, 2), int), np.ones((1, 3), bool))
