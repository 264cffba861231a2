from __future__ import annotations

import numpy as np
import pytest

import inputs
from pyneurons import ops, reference
from pyneurons.errors import ShapeError

pytestmark = pytest.mark.also_on("triton")


def by_loops(fires, order, segments):
    counts = np.zeros((len(segments) - 1, fires.shape[1]), dtype=np.int64)
    for segment in range(len(segments) - 1):
        for place in range(segments[segment], segments[segment + 1]):
            row = place if order is None else order[place]
            for neuron in range(fires.shape[1]):
                if fires[row, neuron]:
                    counts[segment, neuron] += 1
    return counts


def count(mask, order, segments, neurons, backend, threads=1, start=0):
    counts = np.full((len(segments) - 1, neurons), start, dtype=np.int64)
    ops.segment_counts(mask, order, segments, counts, backend=backend, threads=threads)
    return counts - start


@pytest.mark.parametrize("neurons", [1, 31, 33])
@pytest.mark.parametrize("shuffled", [False, True])
def test_equals_plain_loops(backend, neurons, shuffled):
    fires = inputs.bits(20, neurons)
    order = inputs.order(20, 37) if shuffled else None
    segments = inputs.bounds([0, 1, 2, 0, 17])
    counts = count(inputs.wide_mask(fires), order, segments, neurons, backend)
    assert np.array_equal(counts, by_loops(fires, order, segments))


@pytest.mark.parametrize("neurons", inputs.NEURONS)
def test_any_number_of_neurons(backend, neurons):
    fires = inputs.bits(150, neurons)
    order = inputs.order(150, 400)
    segments = inputs.bounds([1, 2, 3, 15, 16, 17, 31, 33, 0, 64, 100])
    got = inputs.Guarded((len(segments) - 1, neurons), np.int64, 7)
    ops.segment_counts(inputs.wide_mask(fires), order, segments, got.view, backend=backend)
    assert got.intact()
    visited = fires[order].astype(np.int64)
    for segment in range(len(segments) - 1):
        expected = visited[segments[segment] : segments[segment + 1]].sum(axis=0)
        assert np.array_equal(got.view[segment] - 7, expected)


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 31, 32, 33, 255, 256, 257])
def test_any_number_of_rows(backend, rows):
    fires = inputs.bits(rows, 100)
    counts = count(reference.pack(fires), None, inputs.bounds([rows]), 100, backend)
    assert np.array_equal(counts[0], fires.sum(axis=0))


@pytest.mark.parametrize("start", inputs.STARTS)
def test_accumulates_onto_large_counters(backend, start):
    fires = inputs.bits(40, 65)
    counts = np.full((1, 65), start, dtype=np.int64)
    for _ in range(2):
        ops.segment_counts(
            reference.pack(fires), None, inputs.bounds([40]), counts, backend=backend
        )
    assert np.array_equal(counts[0], start + 2 * fires.sum(axis=0))


@pytest.mark.parametrize("length", [65_534, 65_535, 65_536, 131_071, 140_003])
def test_segments_longer_than_a_bit_plane_counter(backend, length):
    fires = inputs.bits(50, 40, seed=3)
    fires[:, 7] = True
    order = inputs.order(50, length)
    counts = count(reference.pack(fires), order, inputs.bounds([length]), 40, backend)
    visits = np.bincount(order, minlength=50)
    assert np.array_equal(counts[0], visits @ fires)
    assert counts[0, 7] == length


def test_additive_over_rows_and_cuts(backend):
    fires = inputs.bits(300, 129)
    mask = inputs.wide_mask(fires)
    whole = count(mask, None, inputs.bounds([300]), 129, backend)
    for cut in (0, 1, 16, 137, 300):
        parts = count(mask, None, inputs.bounds([cut, 300 - cut]), 129, backend)
        assert np.array_equal(parts.sum(axis=0), whole[0])
        first = count(mask[:cut], None, inputs.bounds([cut]), 129, backend)
        second = count(mask[cut:], None, inputs.bounds([300 - cut]), 129, backend)
        assert np.array_equal(first + second, whole)


def test_permuting_neurons_permutes_counts(backend):
    fires = inputs.bits(200, 150)
    segments = inputs.bounds([3, 40, 157])
    shuffle = np.random.default_rng(5).permutation(150)
    counts = count(reference.pack(fires), None, segments, 150, backend)
    shuffled = count(reference.pack(fires[:, shuffle]), None, segments, 150, backend)
    assert np.array_equal(shuffled, counts[:, shuffle])


def test_permuting_rows_changes_nothing(backend):
    fires = inputs.bits(200, 70)
    shuffle = np.random.default_rng(6).permutation(200).astype(np.int32)
    in_order = count(reference.pack(fires), None, inputs.bounds([200]), 70, backend)
    shuffled = count(reference.pack(fires), shuffle, inputs.bounds([200]), 70, backend)
    assert np.array_equal(shuffled, in_order)


@pytest.mark.parametrize("neurons", [33, 1024, 1100])
def test_same_for_any_number_of_threads(cpp_backend, neurons):
    fires = inputs.bits(180, neurons)
    segments = inputs.bounds([5, 70, 105])
    one = count(reference.pack(fires), None, segments, neurons, cpp_backend, threads=1)
    assert np.array_equal(one[1], fires[5:75].sum(axis=0))
    for threads in (2, 3, 64):
        many = count(reference.pack(fires), None, segments, neurons, cpp_backend, threads=threads)
        assert np.array_equal(many, one)


def test_columns_of_a_larger_table(backend):
    fires = inputs.bits(50, 64)
    table = np.full((2, 200), -1, dtype=np.int64)
    table[:, 100:164] = 0
    ops.segment_counts(
        reference.pack(fires), None, inputs.bounds([20, 30]), table[:, 100:164], backend=backend
    )
    assert np.array_equal(table[:, 100:164].sum(axis=0), fires.sum(axis=0))
    assert np.all(table[:, :100] == -1)
    assert np.all(table[:, 164:] == -1)


def test_fewer_counters_than_bits(backend):
    """What lies past F is not counted and not written, whatever the mask holds there."""
    mask = np.full((9, 2), 0xFFFFFFFF, dtype=np.uint32)
    got = inputs.Guarded((1, 35), np.int64, 0)
    ops.segment_counts(mask, None, inputs.bounds([9]), got.view, backend=backend)
    assert got.intact()
    assert np.all(got.view == 9)


def test_no_segments_and_no_rows(backend):
    empty = np.zeros((0, 2), dtype=np.uint32)
    counts = np.full((1, 40), 3, dtype=np.int64)
    ops.segment_counts(empty, None, inputs.bounds([0]), counts, backend=backend)
    assert np.all(counts == 3)
    ops.segment_counts(
        empty, None, inputs.bounds([]), np.zeros((0, 40), dtype=np.int64), backend=backend
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("threads", [1, 3])
def test_narrow_counters(backend, dtype, threads):
    """Also where threads share a segment, and up to the last number that they hold."""
    fires = inputs.bits(300, 130, seed=5)
    fires[:, 3] = True
    order = inputs.order(300, 700)
    segments = inputs.bounds([0, 1, 2, 16, 255, 64, 65, 200, 0, 97])
    mask = inputs.wide_mask(fires)
    expected = np.zeros((len(segments) - 1, 130), dtype=np.int64)
    ops.segment_counts(mask, order, segments, expected, backend="reference")
    got = inputs.Guarded((len(segments) - 1, 130), dtype, 0)
    ops.segment_counts(mask, order, segments, got.view, backend=backend, threads=threads)
    assert got.intact()
    np.testing.assert_array_equal(got.view, expected)
    assert got.view[4, 3] == 255
    other = np.full((len(segments) - 1, 130), np.iinfo(dtype).max - 255, dtype=dtype)
    ops.segment_counts(mask, order, segments, other, backend=backend, threads=threads)
    np.testing.assert_array_equal(other - got.view, np.iinfo(dtype).max - 255)


def test_counters_too_narrow_for_a_segment(backend):
    counts = np.zeros((2, 5), dtype=np.uint8)
    mask = reference.pack(inputs.bits(300, 5))
    with pytest.raises(ShapeError, match="a segment has 256 rows, counts of uint8 end at 255"):
        ops.segment_counts(mask, None, inputs.bounds([44, 256]), counts, backend=backend)
    assert not counts.any()
