"""The kernels that find and score candidates, on numbers whose bounds are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyneurons import _core

TOP, UNIT = 4, 0.25


def side(neurons: int, room: int):
    return (
        np.full((neurons, TOP), -np.inf, dtype=np.float32),
        np.full((neurons, room), -1, dtype=np.int32),
        np.full((neurons, room), np.nan, dtype=np.float32),
        np.zeros(neurons, dtype=np.int32),
    )


def listed(found, neuron):
    """The columns of a neuron above its threshold, or None where there was no room."""
    low, column, upper, number = found
    if number[neuron] < 0:
        return None
    own = slice(number[neuron])
    keep = upper[neuron, own] >= low[neuron].min()
    return set(column[neuron, own][keep].tolist())


def truth(scores, length, bound, first):
    """Every column whose upper bound reaches the TOP-th largest lower bound."""
    there = np.flatnonzero((length > 0) & ~np.isnan(scores))
    margin = UNIT * np.abs(scores[there]) + bound * length[there]
    low = np.sort(np.concatenate([np.full(TOP, -np.inf), scores[there] - margin]))[-TOP:]
    return set((first + there[scores[there] + margin >= low[0]]).tolist())


def inputs(columns: int, shift: int):
    random = np.random.default_rng(columns)
    scores = (random.integers(-60, 61, (9, columns)) + shift).astype(np.float32)
    scores[0] = shift  # all equal
    scores[1] *= random.random(columns) < 0.1  # most are 0
    scores[2, ::5] = np.nan
    length = random.integers(0, 5, columns).astype(np.float32)
    bound = np.array([0, 1, 0.5, 0, 0.25, 2, 1, 0.5, 8], dtype=np.float32)
    return scores, length, bound


def run(scores, length, bound, dtype, cut, room, first=0):
    sides = side(len(scores), room), side(len(scores), room)
    near = torch.from_numpy(scores).to(dtype)
    bits = (near.view(torch.uint16) if dtype == torch.bfloat16 else near).numpy()
    for begin in range(0, scores.shape[1], cut):
        some = slice(begin, begin + cut)
        _core.score_candidates(bits[:, some], length[some], bound, UNIT, first + begin, *sides)
    return sides


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shift", [0, 64, -64])  # of both signs, all above 0, all below
@pytest.mark.parametrize("cut", [1, 31, 32, 77, 1000])
@pytest.mark.parametrize("columns", [1, 3, 32, 33, 400])
def test_all_that_may_be_among_the_top_are_listed(columns, cut, shift, dtype):
    scores, length, bound = inputs(columns, shift)
    largest, smallest = run(scores, length, bound, dtype, cut, columns, first=7)
    for b in range(len(scores)):
        assert listed(largest, b) == truth(scores[b], length, bound[b], 7)
        assert listed(smallest, b) == truth(-scores[b], length, bound[b], 7)


@pytest.mark.parametrize("room", [1, 4, 8, 20, 100])
def test_what_has_no_room_says_so(room):
    scores, length, bound = inputs(400, 0)
    outcomes = set()
    for found, sign in zip(
        run(scores, length, bound, torch.float32, 64, room), (1, -1), strict=True
    ):
        for b in range(len(scores)):
            own, true = listed(found, b), truth(sign * scores[b], length, bound[b], 0)
            assert own is None if len(true) > room else own in (None, true)
            outcomes.add(own is None)
    assert True in outcomes
    assert room < 100 or False in outcomes


def test_room_is_made_where_the_threshold_has_passed():
    """Rising scores: each lets in one more, and four at a time are above the threshold."""
    scores = np.arange(1, 257, dtype=np.float32)[None]
    length, bound = np.ones(256, dtype=np.float32), np.zeros(1, dtype=np.float32)
    sides = run(scores, length, bound, torch.float32, 256, 200)
    assert sides[0][3][0] >= 0
    assert listed(sides[0], 0) == truth(scores[0], length, 0, 0)


@pytest.mark.parametrize("terms", [1, 7, 8, 9, 40])
def test_exact_scores(terms):
    random = np.random.default_rng(terms)
    rows = random.integers(-1000, 1001, (30, terms)).astype(np.float32)
    directions = random.integers(-1000, 1001, (5, terms)).astype(np.float64)
    owner = random.integers(0, 5, 30)
    out = np.full(30, np.nan, dtype=np.float32)
    _core.exact_scores(rows, directions, owner, out)
    expected = (rows.astype(np.float64) * directions[owner]).sum(axis=1)
    np.testing.assert_array_equal(out, expected.astype(np.float32))


def test_a_score_is_summed_in_float64():
    rows = np.array([[2.0**30, 1, -(2.0**30)]], dtype=np.float32)
    out = np.zeros(1, dtype=np.float32)
    _core.exact_scores(rows, np.ones((1, 3)), np.zeros(1, dtype=np.int64), out)
    assert out[0] == 1


def test_arguments_that_reach_outside_are_refused():
    scores, length, bound = inputs(32, 0)
    good = side(9, 8)
    with pytest.raises(ValueError, match="length has shape"):
        _core.score_candidates(scores, length[:31], bound, UNIT, 0, good, side(9, 8))
    with pytest.raises(ValueError, match="number has shape"):
        _core.score_candidates(scores, length, bound, UNIT, 0, good, side(8, 8))
    wrong = (good[0], good[1], good[2][:, :7].copy(), good[3])
    with pytest.raises(ValueError, match="column, upper have shapes"):
        _core.score_candidates(scores, length, bound, UNIT, 0, wrong, side(9, 8))
    wrong = (*good[:3], np.array([0] * 8 + [9], dtype=np.int32))
    with pytest.raises(ValueError, match="number is out of range at 8"):
        _core.score_candidates(scores, length, bound, UNIT, 0, wrong, side(9, 8))
    with pytest.raises(TypeError, match="scores has dtype float64"):
        _core.score_candidates(scores.astype(np.float64), length, bound, UNIT, 0, good, side(9, 8))
    with pytest.raises(ValueError, match="owner is out of range at 0"):
        _core.exact_scores(scores, np.ones((2, 32)), np.full(9, 2), bound.copy())
