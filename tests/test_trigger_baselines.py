"""The kernel that ranks triggers and sums up their baselines, beside a search through everything."""

from __future__ import annotations

import numpy as np
import pytest

from pyneurons import _core

RANDOM, MATCHED = 50, 6


def inputs(columns: int, groups: list[list[int]], seed: int = 0):
    """Integer scores, so that sums are exact whatever their order; half of them occur twice."""
    random = np.random.default_rng(seed)
    scores = random.integers(-20, 20, (3, columns)).astype(np.float32)
    count = random.integers(0, 9, columns)
    by_count = random.permutation(columns)
    by_count = by_count[np.argsort(count[by_count], kind="stable")].astype(np.int32)
    place = np.empty_like(by_count)
    place[by_count] = np.arange(columns)
    drawn = random.integers(0, columns, 3 * RANDOM).astype(np.int32)
    row = random.integers(0, 3, len(groups))
    offsets = np.cumsum([0, *(len(own) for own in groups)])
    trigger = np.array([t for own in groups for t in own], dtype=np.int32)
    return (
        scores,
        np.array([-0.5, 0, 3.5]),
        (row, offsets, trigger),
        (drawn, by_count, place, count),
    )


def run(scores, mean, groups, baselines):
    row, _, trigger = groups
    rank = np.full(trigger.size, -1, dtype=np.int32)
    random = np.full(row.size, np.nan), np.full((row.size, 3), -1, dtype=np.int32)
    matched = np.full(trigger.size, np.nan), np.full((trigger.size, 3), -1, dtype=np.int32)
    _core.trigger_baselines(scores, mean, groups, baselines, RANDOM, MATCHED, rank, random, matched)
    return rank, random, matched


def totals(own, tokens, mean):
    values = own[list(tokens)].astype(np.float64)
    return values.sum(), [values.size, (values < 0).sum(), (values < mean).sum()]


def hold(columns, groups, seed=0):
    given = inputs(columns, groups, seed)
    scores, mean, (row, offsets, _), (drawn, by_count, place, count) = given
    rank, random, matched = run(*given)
    for g, triggers in enumerate(groups):
        own, low = scores[row[g]], mean[row[g]]
        some = [t for t in drawn if t not in triggers][:RANDOM]
        total, counts = totals(own, some, low)
        assert (random[0][g], random[1][g].tolist()) == (total, counts)
        for i, trigger in enumerate(triggers, start=offsets[g]):
            assert rank[i] == (own > own[trigger]).sum()
            near = sorted(
                (t for t in by_count if t not in triggers),
                key=lambda t, own=trigger: (
                    abs(count[t] - count[own]),
                    abs(int(place[t]) - int(place[own])),
                    place[t],
                ),
            )[:MATCHED]
            total, counts = totals(own, near, low)
            assert (matched[0][i], matched[1][i].tolist()) == (total, counts)


@pytest.mark.parametrize("columns", [9, 16, 37, 300])
@pytest.mark.parametrize("number", [1, 3, 4, 5, 9])
def test_ranks_and_totals(columns, number):
    """Groups of one trigger, of some, of all there are, and of none."""
    random = np.random.default_rng(number)
    groups = [random.permutation(columns)[:number].tolist() for _ in range(7)]
    hold(columns, [*groups, [], list(range(columns)), [columns - 1]], seed=number)


@pytest.mark.parametrize("number", [1, 2, 7, 30, 79])
def test_triggers_side_by_side_and_at_both_ends(number):
    """None is its own match or that of another, however far one has to look."""
    by_count = inputs(80, [[0]])[3][1].tolist()
    hold(80, [by_count[:number], by_count[-number:], by_count[20 : 20 + number]])


def test_what_is_the_same_is_not_larger():
    groups = np.zeros(1, dtype=np.int64), np.array([0, 2]), np.array([0, 5], dtype=np.int32)
    _, mean, _, baselines = inputs(20, [[0]])
    scores = np.ones((1, 20), dtype=np.float32)
    scores[0, 5], scores[0, 19] = np.nextafter(1, 2, dtype=np.float32), np.nan
    rank, _, _ = run(scores, mean[:1], groups, baselines)
    assert rank.tolist() == [1, 0]


def test_arguments_that_reach_outside_are_refused():
    scores, mean, (row, offsets, trigger), baselines = inputs(20, [[1, 2], [3]])
    for name, place, groups in (
        ("row", 1, (np.array([0, 3]), offsets, trigger)),
        ("trigger", 0, (row, offsets, np.array([20, 2, 3], dtype=np.int32))),
        ("offsets", 2, (row, np.array([0, 2, 4]), trigger)),
        ("offsets", 1, (row, np.array([1, 0, 3]), trigger)),
    ):
        with pytest.raises(ValueError, match=f"{name} is out of range at {place}"):
            run(scores, mean, groups, baselines)
    for i, name in enumerate(("drawn", "by_count", "place")):
        wrong = [array.copy() for array in baselines]
        wrong[i][4] = -1
        with pytest.raises(ValueError, match=f"{name} is out of range at 4"):
            run(scores, mean, (row, offsets, trigger), tuple(wrong))
    with pytest.raises(ValueError, match="count has shape"):
        run(scores, mean, (row, offsets, trigger), (*baselines[:3], baselines[3][:19]))
