from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

import inputs
from pyneurons import ops, reference
from pyneurons.errors import IntegrityError

pytestmark = pytest.mark.also_on("triton")

NOTHING = 2**62


def counts_of(fires, order, segments):
    visited = fires[order].astype(np.int64)
    return np.array([visited[a:b].sum(axis=0) for a, b in itertools.pairwise(segments)]).reshape(
        len(segments) - 1, fires.shape[1]
    )


def offsets_of(counts, threshold):
    return inputs.bounds((counts >= threshold).sum(axis=0))


def list_triggers(mask, order, segments, threshold, offsets, backend, threads=1):
    segment_of = inputs.Guarded((int(offsets[-1]),), np.int32, -5)
    fires = inputs.Guarded((int(offsets[-1]),), np.int64, -5)
    ops.ngram_triggers(
        mask,
        order,
        segments,
        threshold,
        offsets,
        segment_of.view,
        fires.view,
        backend=backend,
        threads=threads,
    )
    assert segment_of.intact()
    assert fires.intact()
    return segment_of.view, fires.view


def check(counts, threshold, segment_of, fires):
    neuron, segment = np.nonzero(threshold[:, np.newaxis] <= counts.T)
    assert segment_of.tolist() == segment.tolist()
    assert fires.tolist() == counts[segment, neuron].tolist()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_brute_force_over_pairs_of_neuron_and_ngram(backend, n):
    ids, starts = inputs.corpus(700, seed=n)
    rows = inputs.ngram_rows(ids, starts, n)
    grams, order, segments = inputs.ngram_segments(rows)
    fires = inputs.bits(700, 70, seed=n)
    fires[:, 3] = ids == 4  # a token detector
    gram_of = {row: gram for gram, members in rows.items() for row in members}
    pairs = Counter(
        (neuron, gram_of[row])
        for row, neuron in zip(*np.nonzero(fires), strict=True)
        if row in gram_of
    )
    random = np.random.default_rng(n)
    threshold = random.choice([1, 2, 3, 6, 20, NOTHING], 70).astype(np.int64)
    wanted = [
        sorted(
            (grams.index(gram), count)
            for (who, gram), count in pairs.items()
            if who == neuron and count >= threshold[neuron]
        )
        for neuron in range(70)
    ]
    offsets = inputs.bounds([len(one) for one in wanted])
    segment_of, counts = list_triggers(
        reference.pack(fires), order, segments, threshold, offsets, backend
    )
    flat = [pair for one in wanted for pair in one]
    assert list(zip(segment_of.tolist(), counts.tolist(), strict=True)) == flat


@pytest.mark.parametrize("neurons", inputs.NEURONS)
def test_any_number_of_neurons_and_unsorted_segments(backend, neurons):
    fires = inputs.bits(90, neurons)
    order = inputs.order(90, 500)
    lengths = inputs.sorted_lengths(500)
    segments = inputs.bounds(np.random.default_rng(2).permutation(lengths))
    counts = counts_of(fires, order, segments)
    threshold = np.random.default_rng(3).choice([1, 2, 4, 17, 64, NOTHING], neurons)
    threshold = threshold.astype(np.int64)
    got = list_triggers(
        inputs.wide_mask(fires),
        order,
        segments,
        threshold,
        offsets_of(counts, threshold),
        backend,
    )
    check(counts, threshold, *got)


@pytest.mark.parametrize("threshold", [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65])
def test_thresholds_at_the_edge_of_a_bit(backend, threshold):
    """Neuron f fires on the first f rows of the segment, so counts straddle every threshold."""
    fires = np.tri(70, 70, -1, dtype=bool).T
    segments = inputs.bounds([70])
    wanted = np.full(70, threshold, dtype=np.int64)
    counts = counts_of(fires, np.arange(70), segments)
    assert counts[0].tolist() == list(range(70))
    got = list_triggers(
        reference.pack(fires), None, segments, wanted, offsets_of(counts, wanted), backend
    )
    check(counts, wanted, *got)


def test_segments_longer_than_a_bit_plane_counter(backend):
    fires = inputs.bits(30, 40)
    fires[:, 0] = True
    order = inputs.order(30, 65_536 + 65_535)
    segments = inputs.bounds([65_536, 65_535])
    counts = counts_of(fires, order, segments)
    threshold = counts.min(axis=0) + 1
    threshold[0] = 65_536
    threshold[counts.max(axis=0) == 0] = NOTHING
    got = list_triggers(
        reference.pack(fires), order, segments, threshold, offsets_of(counts, threshold), backend
    )
    check(counts, threshold, *got)
    assert got[0][0] == 0


def test_thresholds_that_no_counter_reaches(backend):
    fires = np.ones((5, 33), dtype=bool)
    threshold = np.full(33, 2**63 - 1, dtype=np.int64)
    threshold[1] = 2**31
    threshold[2] = 2**32 + 5
    segment_of, _ = list_triggers(
        reference.pack(fires), None, inputs.bounds([5]), threshold, inputs.bounds([0] * 33), backend
    )
    assert len(segment_of) == 0


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_contradiction_leaves_outputs_untouched(backend, change, threads):
    fires = np.ones((10, 1100), dtype=bool)
    segments = inputs.bounds([1] * 10)
    threshold = np.ones(1100, dtype=np.int64)
    room = np.full(1100, 10)
    room[1060] += change
    offsets = inputs.bounds(room)
    segment_of = np.full(offsets[-1], -5, dtype=np.int32)
    counts = np.full(offsets[-1], -5, dtype=np.int64)
    message = f"neuron 1060 has 10 n-grams at its threshold, offsets leave room for {10 + change}"
    with pytest.raises(IntegrityError, match=message):
        ops.ngram_triggers(
            reference.pack(fires),
            None,
            segments,
            threshold,
            offsets,
            segment_of,
            counts,
            backend=backend,
            threads=threads,
        )
    assert np.all(segment_of == -5)
    assert np.all(counts == -5)


def test_same_for_any_number_of_threads(cpp_backend):
    fires = inputs.bits(80, 1100)
    order = inputs.order(80, 400)
    segments = inputs.bounds(inputs.sorted_lengths(400))
    counts = counts_of(fires, order, segments)
    threshold = np.full(1100, 2, dtype=np.int64)
    offsets = offsets_of(counts, threshold)
    for threads in (1, 2, 3, 40):
        got = list_triggers(
            reference.pack(fires), order, segments, threshold, offsets, cpp_backend, threads
        )
        check(counts, threshold, *got)


def test_agrees_with_coverage(backend):
    """The histogram's tail is the length of the list: what the caller relies on."""
    ids, starts = inputs.corpus(600)
    _, order, segments = inputs.ngram_segments(inputs.ngram_rows(ids, starts, 2))
    fires = inputs.bits(600, 100)
    totals = np.zeros((1, 100), dtype=np.int64)
    everything = inputs.bounds([len(order)])
    mask = reference.pack(fires)
    ops.segment_counts(mask, order, everything, totals, backend=backend)
    histogram = np.zeros((601, 100), dtype=np.int64)
    large = np.zeros((0, 100), dtype=np.int64)
    ops.ngram_coverage(mask, order, segments, totals[0], histogram, large, backend=backend)
    threshold = np.random.default_rng(4).integers(1, 5, 100)
    lengths = [int(histogram[threshold[f] :, f].sum()) for f in range(100)]
    offsets = inputs.bounds(lengths)
    _, counts = list_triggers(mask, order, segments, threshold, offsets, backend)
    for f in range(100):
        listed = counts[offsets[f] : offsets[f + 1]]
        assert np.array_equal(
            np.bincount(listed, minlength=601)[threshold[f] :], histogram[threshold[f] :, f]
        )
