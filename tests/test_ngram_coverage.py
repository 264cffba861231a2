from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

import inputs
from pyneurons import ops, reference
from pyneurons.errors import IntegrityError

pytestmark = pytest.mark.also_on("triton")


def cover(mask, order, segments, fires, bins, backend, threads=1, start=0):
    """Histogram and large counts that were added to `start`."""
    n_large = int(np.count_nonzero(np.diff(segments) > bins))
    histogram = inputs.Guarded((bins + 1, len(fires)), np.int64, start)
    large = inputs.Guarded((n_large, len(fires)), np.int64, start)
    ops.ngram_coverage(
        mask, order, segments, fires, histogram.view, large.view, backend=backend, threads=threads
    )
    assert histogram.intact()
    assert large.intact()
    assert np.all(histogram.view[0] == start)
    return histogram.view - start, large.view - start


def expect(fires, order, segments, bins):
    """The same from the counts of all segments, singletons read like any other."""
    visited = fires[order].astype(np.int64)
    counts = np.array([visited[a:b].sum(axis=0) for a, b in itertools.pairwise(segments)]).reshape(
        len(segments) - 1, fires.shape[1]
    )
    lengths = np.diff(segments)
    histogram = np.zeros((bins + 1, fires.shape[1]), dtype=np.int64)
    for count in counts[lengths <= bins]:
        alive = np.flatnonzero(count)
        histogram[count[alive], alive] += 1
    return histogram, counts[lengths > bins], visited[: segments[-1]].sum(axis=0)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("bins", [3, 20, 500])
def test_brute_force_over_pairs_of_neuron_and_ngram(backend, n, bins):
    ids, starts = inputs.corpus(900, seed=n)
    rows = inputs.ngram_rows(ids, starts, n)
    _, order, segments = inputs.ngram_segments(rows)
    neurons = 70
    fires = inputs.bits(900, neurons, seed=n)
    fires[:, 3] = ids == 4  # a token detector
    gram_of = {row: gram for gram, members in rows.items() for row in members}
    pairs = Counter(
        (neuron, gram_of[row])
        for row, neuron in zip(*np.nonzero(fires), strict=True)
        if row in gram_of
    )
    totals = np.zeros(neurons, dtype=np.int64)
    expected = np.zeros((bins + 1, neurons), dtype=np.int64)
    expected_large = Counter()
    for (neuron, gram), count in pairs.items():
        totals[neuron] += count
        if len(rows[gram]) <= bins:
            expected[count, neuron] += 1
        else:
            expected_large[neuron, gram] = count
    histogram, large = cover(reference.pack(fires), order, segments, totals, bins, backend)
    assert np.array_equal(histogram, expected)
    large_grams = [gram for gram in rows if len(rows[gram]) > bins]
    large_grams.sort(key=lambda gram: (len(rows[gram]), rows[gram][0]))
    assert len(large) == len(large_grams)
    for row, gram in zip(large, large_grams, strict=True):
        assert row.tolist() == [expected_large[neuron, gram] for neuron in range(neurons)]


@pytest.mark.parametrize("neurons", inputs.NEURONS)
def test_any_number_of_neurons(backend, neurons):
    fires = inputs.bits(100, neurons)
    segments = inputs.bounds(inputs.sorted_lengths(700))
    order = inputs.order(100, 700)
    expected, expected_large, totals = expect(fires, order, segments, 40)
    histogram, large = cover(inputs.wide_mask(fires), order, segments, totals, 40, backend)
    assert np.array_equal(histogram, expected)
    assert np.array_equal(large, expected_large)


@pytest.mark.parametrize("neurons", [1, 33, 70, 95])
def test_bits_behind_the_last_neuron_count_for_nobody(backend, neurons):
    """Seldom neurons, and a bit behind the last that is always set: counts above fifteen, one by one."""
    bits = inputs.bits(100, 96, density=0.02)
    bits[:, neurons:] = False
    bits[:, 95] = True
    fires = bits[:, :neurons]
    segments = inputs.bounds([17, 20, 40, 40, 60, 100])
    order = inputs.order(100, int(segments[-1]))
    expected, _, totals = expect(fires, order, segments, 100)
    histogram, _ = cover(reference.pack(bits), order, segments, totals, 100, backend)
    assert np.array_equal(histogram, expected)


@pytest.mark.parametrize("bins", [1, 2, 3, 4, 7, 14, 15, 16, 17, 31, 90])
def test_any_number_of_bins(backend, bins):
    fires = inputs.bits(100, 65)
    lengths = np.sort(np.concatenate([np.arange(20), [15, 15, 16, 16, 40, 89, 90, 91, 200]]))
    segments = inputs.bounds(lengths)
    order = inputs.order(100, int(segments[-1]))
    expected, expected_large, totals = expect(fires, order, segments, bins)
    histogram, large = cover(reference.pack(fires), order, segments, totals, bins, backend)
    assert np.array_equal(histogram, expected)
    assert np.array_equal(large, expected_large)


@pytest.mark.parametrize("density", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("length", range(1, 18))
def test_every_count_of_short_segments(cpp_backend, density, length):
    fires = inputs.bits(64, 100, density=density)
    segments = inputs.bounds([length] * 50)
    order = inputs.order(64, 50 * length)
    expected, _, totals = expect(fires, order, segments, 20)
    histogram, _ = cover(reference.pack(fires), order, segments, totals, 20, cpp_backend)
    assert np.array_equal(histogram, expected)


@pytest.mark.parametrize("length", [2, 3, 5])
def test_more_short_segments_than_a_bit_plane_counter_holds(cpp_backend, length):
    # Neurons that lie one vector apart, for vectors of every width, and two more.
    alive = np.array([11, 11 + 64, 11 + 256, 11 + 512, 0, 599])
    fires = np.zeros((40, 600), dtype=bool)
    fires[:, alive[:4]] = True
    fires[:, alive[4:]] = inputs.bits(40, 2, density=0.4)
    number = 65_535 + 70
    order = inputs.order(40, number * length)
    counts = fires[:, alive][order].reshape(number, length, len(alive)).sum(axis=1)
    expected = np.zeros((10, 600), dtype=np.int64)
    for c in range(1, 10):
        expected[c, alive] = (counts == c).sum(axis=0)
    totals = np.zeros(600, dtype=np.int64)
    totals[alive] = counts.sum(axis=0)
    segments = inputs.bounds([length] * number)
    histogram, _ = cover(reference.pack(fires), order, segments, totals, 9, cpp_backend)
    assert np.all(histogram[length, alive[:4]] == number)
    assert np.array_equal(histogram, expected)


@pytest.mark.parametrize("bins", [10, 70_000])
def test_segments_longer_than_a_bit_plane_counter(backend, bins):
    fires = inputs.bits(30, 33)
    fires[:, 0] = True
    order = inputs.order(30, 66_000)
    segments = inputs.bounds([66_000])
    totals = np.bincount(order, minlength=30) @ fires
    histogram, large = cover(reference.pack(fires), order, segments, totals, bins, backend)
    if bins < 66_000:
        assert np.array_equal(large[0], totals)
        assert histogram.sum() == 0
    else:
        assert histogram[66_000, 0] == 1
        assert np.array_equal(histogram.sum(axis=0), totals > 0)


@pytest.mark.parametrize("start", inputs.STARTS)
def test_accumulates_onto_large_counters(backend, start):
    fires = inputs.bits(60, 70)
    order = inputs.order(60, 300)
    segments = inputs.bounds(inputs.sorted_lengths(300))
    expected, expected_large, totals = expect(fires, order, segments, 9)
    mask = reference.pack(fires)
    histogram, large = cover(mask, order, segments, totals, 9, backend, start=start)
    assert np.array_equal(histogram, expected)
    assert np.array_equal(large, expected_large)


def test_singletons_are_not_read(backend):
    """Their fires come by subtraction: the histogram follows `fires`, not their rows."""
    fires = np.zeros((10, 5), dtype=bool)
    totals = np.array([0, 1, 2, 3, 4], dtype=np.int64)
    segments = inputs.bounds([1, 1, 1, 1, 2])
    histogram, _ = cover(reference.pack(fires), None, segments, totals, 4, backend)
    assert histogram[1].tolist() == [0, 1, 2, 3, 4]
    assert histogram[2:].sum() == 0


@pytest.mark.parametrize(("change", "left"), [(-1, -1), (+1, 4)])
@pytest.mark.parametrize("threads", [1, 3])
def test_contradiction_leaves_outputs_untouched(backend, change, left, threads):
    fires = np.ones((40, 1100), dtype=bool)
    segments = inputs.bounds([1, 1, 1, 2, 20])
    totals = np.full(1100, 22 if change < 0 else 25, dtype=np.int64)
    totals[1050] += change
    histogram = np.full((6, 1100), -7, dtype=np.int64)
    large = np.full((1, 1100), -7, dtype=np.int64)
    with pytest.raises(IntegrityError, match=rf"fires\[1050\] leaves {left} fires for the 3"):
        ops.ngram_coverage(
            reference.pack(fires),
            None,
            segments,
            totals,
            histogram,
            large,
            backend=backend,
            threads=threads,
        )
    assert np.all(histogram == -7)
    assert np.all(large == -7)


def test_permuting_neurons_permutes_results(backend):
    fires = inputs.bits(80, 150)
    order = inputs.order(80, 400)
    segments = inputs.bounds(inputs.sorted_lengths(400))
    _, _, totals = expect(fires, order, segments, 12)
    shuffle = np.random.default_rng(9).permutation(150)
    plain = cover(reference.pack(fires), order, segments, totals, 12, backend)
    permuted = cover(
        reference.pack(fires[:, shuffle]), order, segments, totals[shuffle], 12, backend
    )
    assert np.array_equal(permuted[0], plain[0][:, shuffle])
    assert np.array_equal(permuted[1], plain[1][:, shuffle])


def test_same_for_any_number_of_threads(cpp_backend):
    fires = inputs.bits(80, 1100)
    order = inputs.order(80, 600)
    segments = inputs.bounds(inputs.sorted_lengths(600))
    expected, expected_large, totals = expect(fires, order, segments, 30)
    for threads in (1, 2, 3, 40):
        histogram, large = cover(
            reference.pack(fires), order, segments, totals, 30, cpp_backend, threads
        )
        assert np.array_equal(histogram, expected)
        assert np.array_equal(large, expected_large)


@pytest.mark.parametrize("lengths", [[], [0, 0], [0, 1], [1, 1, 1]])
def test_nothing_but_singletons(backend, lengths):
    fires = inputs.bits(10, 40)
    segments = inputs.bounds(lengths)
    totals = fires[: segments[-1]].sum(axis=0)
    histogram, large = cover(reference.pack(fires), None, segments, totals, 5, backend)
    assert np.array_equal(histogram[1], totals)
    assert histogram[2:].sum() == 0
    assert large.shape == (0, 40)
