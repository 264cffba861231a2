from __future__ import annotations

import numpy as np
import pytest

import inputs
from pyneurons import ops, reference

pytestmark = pytest.mark.also_on("triton")


def by_loops(fires, order, segments, count, limit):
    visited = np.arange(len(fires)) if order is None else order
    first = []
    for neuron in range(fires.shape[1]):
        met = [
            g
            for g in range(len(segments) - 1)
            if fires[visited[segments[g] : segments[g + 1]], neuron].sum() == count[neuron]
        ]
        first.append(met[:limit])
    return first


def find(mask, order, segments, count, limit, backend, threads=1):
    neurons = len(count)
    got = inputs.Guarded((neurons, limit), np.int32, -1)
    found = inputs.Guarded((neurons,), np.int64, 0)
    ops.first_segments(
        mask, order, segments, count, got.view, found.view, backend=backend, threads=threads
    )
    assert got.intact()
    assert found.intact()
    for neuron in range(neurons):
        assert np.all(got.view[neuron, found.view[neuron] :] == -1)
    return [one[:known].tolist() for one, known in zip(got.view, found.view, strict=True)]


def counts(neurons, largest=4, seed=0):
    return np.random.default_rng(seed).integers(1, largest + 1, neurons)


@pytest.mark.parametrize("neurons", inputs.NEURONS)
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_equals_plain_loops(backend, neurons, limit):
    fires = inputs.bits(90, neurons)
    order = inputs.order(90, 211)
    segments = inputs.bounds([1, 2, 0, 3, 15, 16, 17, 1, 1, 64, 65, 5, 4, 3, 2, 1, 1])
    count = counts(neurons)
    got = find(inputs.wide_mask(fires), order, segments, count, limit, backend)
    assert got == by_loops(fires, order, segments, count, limit)


@pytest.mark.parametrize("length", [1, 2, 7, 15, 16, 31, 63])
def test_every_count_of_a_segment(backend, length):
    """Neuron f fires f times in each segment, or as often as there are rows."""
    neurons = 70
    fires = np.arange(length)[:, None] < np.arange(neurons)[None, :]
    mask = np.tile(reference.pack(fires), (3, 1))
    for sought in (1, 2, length - 1, length, length + 1, 2**40):
        count = np.full(neurons, max(sought, 1), dtype=np.int64)
        got = find(mask, None, inputs.bounds([length] * 3), count, 2, backend)
        exact = np.minimum(np.arange(neurons), length) == count
        assert got == [[0, 1] if one else [] for one in exact]


@pytest.mark.parametrize("length", [65_535, 65_536, 70_001])
def test_segments_longer_than_a_bit_plane_counter(backend, length):
    fires = inputs.bits(50, 40, seed=3)
    fires[:, 7] = True
    order = inputs.order(50, length)
    segments = inputs.bounds([20, length - 20])
    count = fires[order[20:]].sum(axis=0)
    count[8] -= 1  # one too few
    got = find(reference.pack(fires), order, segments, np.maximum(count, 1), 2, backend)
    assert got == by_loops(fires, order, segments, np.maximum(count, 1), 2)
    assert got[7] == [1]
    assert got[8] == []


def test_goes_on_where_it_stopped(backend):
    fires = inputs.bits(120, 130)
    segments = inputs.bounds([2] * 60)
    count = counts(130, 2)
    expected = by_loops(fires, None, segments, count, 5)
    mask = reference.pack(fires)
    got = np.full((130, 5), -1, dtype=np.int32)
    found = np.zeros(130, dtype=np.int64)
    for first, last in ((0, 1), (1, 1), (1, 20), (20, 60)):
        before = found.copy()
        ops.first_segments(
            mask[2 * first : 2 * last],
            None,
            segments[: last - first + 1],
            count,
            got,
            found,
            backend=backend,
        )
        new = (np.arange(5) >= before[:, None]) & (np.arange(5) < found[:, None])
        got[new] += first
    assert [one[:k].tolist() for one, k in zip(got, found, strict=True)] == expected


def test_who_has_all_is_left_alone(backend):
    fires = inputs.bits(64, 100)
    got = np.full((100, 2), -1, dtype=np.int32)
    found = np.full(100, 2, dtype=np.int64)
    found[33] = 1
    ops.first_segments(
        reference.pack(fires),
        None,
        np.arange(65),
        np.ones(100, dtype=np.int64),
        got,
        found,
        backend=backend,
    )
    assert np.all(found == 2)
    assert got[33].tolist() == [-1, int(np.argmax(fires[:, 33]))]
    assert np.all(np.delete(got, 33, axis=0) == -1)


def test_bits_past_the_neurons_are_nobody(backend):
    mask = np.full((3, 2), 0xFFFFFFFF, dtype=np.uint32)
    got = find(mask, None, inputs.bounds([1, 2]), np.ones(35, dtype=np.int64), 2, backend)
    assert got == [[0]] * 35


def test_same_for_any_number_of_threads(cpp_backend):
    fires = inputs.bits(120, 1100)
    count = counts(1100)
    segments = inputs.bounds([3] * 40)
    expected = by_loops(fires, None, segments, count, 4)
    for threads in (1, 2, 3, 50):
        mask = reference.pack(fires)
        assert find(mask, None, segments, count, 4, cpp_backend, threads) == expected


def test_no_segments(backend):
    got = find(
        np.zeros((0, 1), dtype=np.uint32),
        None,
        inputs.bounds([]),
        np.ones(20, dtype=np.int64),
        2,
        backend,
    )
    assert got == [[]] * 20
