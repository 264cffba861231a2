from __future__ import annotations

import numpy as np
import pytest

import inputs
from pyneurons import ops, reference

pytestmark = pytest.mark.also_on("triton")


def by_loops(fires, order, limit):
    rows = []
    visited = range(len(fires)) if order is None else order.tolist()
    for neuron in range(fires.shape[1]):
        rows.append([row for row in visited if fires[row, neuron]][:limit])
    return rows


def find(mask, order, neurons, limit, backend, threads=1):
    rows = inputs.Guarded((neurons, limit), np.int64, -1)
    found = inputs.Guarded((neurons,), np.int64, 0)
    ops.firing_rows(mask, order, rows.view, found.view, backend=backend, threads=threads)
    assert rows.intact()
    assert found.intact()
    return rows.view, found.view


def check(rows, found, expected):
    for neuron, one in enumerate(expected):
        assert found[neuron] == len(one)
        assert rows[neuron, : len(one)].tolist() == one
        assert np.all(rows[neuron, len(one) :] == -1)


@pytest.mark.parametrize("neurons", inputs.NEURONS)
@pytest.mark.parametrize("limit", [1, 16])
def test_first_rows_in_order(backend, neurons, limit):
    fires = inputs.bits(90, neurons)
    rows, found = find(inputs.wide_mask(fires), None, neurons, limit, backend)
    check(rows, found, by_loops(fires, None, limit))


@pytest.mark.parametrize("limit", [0, 1, 5, 1000])
def test_rows_in_a_given_order(backend, limit):
    fires = inputs.bits(70, 130)
    order = inputs.order(70, 160)
    rows, found = find(reference.pack(fires), order, 130, limit, backend)
    check(rows, found, by_loops(fires, order, limit))


def test_pieces_give_what_the_whole_gives(backend):
    """Row ids are those of the mask, so a piece of the corpus is a piece of the order."""
    fires = inputs.bits(100, 200)
    mask = reference.pack(fires)
    order = np.random.default_rng(1).permutation(100).astype(np.int32)
    expected = by_loops(fires, order, 6)
    rows = np.full((200, 6), -1, dtype=np.int64)
    found = np.zeros(200, dtype=np.int64)
    for cut in (order[:1], order[1:1], order[1:40], order[40:]):
        ops.firing_rows(mask, cut, rows, found, backend=backend)
    check(rows, found, expected)


def test_full_and_dead_neurons(backend):
    fires = np.zeros((40, 64), dtype=bool)
    fires[:, 0] = True
    fires[39, 63] = True
    rows, found = find(reference.pack(fires), None, 64, 3, backend)
    assert rows[0].tolist() == [0, 1, 2]
    assert found[0] == 3
    assert rows[63].tolist() == [39, -1, -1]
    assert found[1:63].sum() == 0


def test_bits_past_the_neurons_are_nobody(backend):
    mask = np.full((3, 2), 0xFFFFFFFF, dtype=np.uint32)
    rows, found = find(mask, None, 35, 2, backend)
    assert np.all(found == 2)
    assert np.array_equal(rows, np.tile([0, 1], (35, 1)))


def test_same_for_any_number_of_threads(cpp_backend):
    fires = inputs.bits(120, 1100)
    expected = by_loops(fires, None, 4)
    for threads in (1, 2, 3, 50):
        rows, found = find(reference.pack(fires), None, 1100, 4, cpp_backend, threads)
        check(rows, found, expected)


def test_no_rows(backend):
    _, found = find(np.zeros((0, 1), dtype=np.uint32), None, 20, 2, backend)
    assert np.all(found == 0)
