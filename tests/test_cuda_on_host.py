"""The algorithms of the CUDA kernels, from the same sources, on the host: against the reference."""

from __future__ import annotations

import numpy as np
import pytest

import cuda_on_host
import inputs
from pyneurons import reference
from pyneurons.errors import IntegrityError

NOTHING = 2**62
THREADS_AND_TEAMS = [(1, 1), (2, 7), (4, 1000)]


def lattice_fires(rows, neurons):
    """Bits of small-integer products, many of them exactly 0: those do not fire."""
    x, w = inputs.lattice((rows, 9), 1), inputs.lattice((neurons, 9), 2)
    z = x @ w.T
    assert np.any(z == 0) or z.size < 20
    return z > 0


@pytest.mark.parametrize("neurons", inputs.NEURONS)
@pytest.mark.parametrize("shuffled", [False, True])
def test_segment_counts(neurons, shuffled):
    mask = inputs.wide_mask(lattice_fires(150, neurons))
    order = inputs.order(150, 900) if shuffled else None
    lengths = [1, 0, 0, 2, 3, 15, 16, 17, 31, 33, 0, 31] + ([64, 100, 587] if shuffled else [])
    segments = inputs.bounds(lengths)
    for dtype in (np.int64, np.uint32):
        for threads, teams in THREADS_AND_TEAMS:
            got = inputs.Guarded((len(lengths), neurons), dtype, 7)
            expected = got.view.copy()
            reference.segment_counts(mask, order, segments, expected)
            cuda_on_host.segment_counts(
                mask, order, segments, got.view, threads=threads, teams=teams
            )
            assert got.intact()
            assert np.array_equal(got.view, expected)


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 31, 32, 33, 255, 256, 257, 8191, 8192, 20_003])
@pytest.mark.parametrize("teams", [1, 50])
def test_one_segment_in_any_number_of_pieces(rows, teams):
    """Also more rows than the planes of one team count."""
    fires = inputs.bits(rows, 100)
    fires[:, 7] = True
    counts = np.full((1, 100), 2**40, dtype=np.int64)
    cuda_on_host.segment_counts(
        reference.pack(fires), None, inputs.bounds([rows]), counts, threads=3, teams=teams
    )
    assert np.array_equal(counts[0], 2**40 + fires.sum(axis=0))


def test_segments_that_do_not_begin_at_the_first_row():
    fires = inputs.bits(300, 70)
    segments = 40 + inputs.bounds([10, 0, 200])
    counts, expected = np.zeros((2, 3, 70), dtype=np.int64)
    reference.segment_counts(reference.pack(fires), None, segments, expected)
    cuda_on_host.segment_counts(reference.pack(fires), None, segments, counts)
    assert np.array_equal(counts, expected)


def test_bits_past_the_last_neuron_are_not_counted():
    mask = np.full((9, 2), 0xFFFFFFFF, dtype=np.uint32)
    got = inputs.Guarded((1, 35), np.int64, 0)
    cuda_on_host.segment_counts(mask, None, inputs.bounds([9]), got.view)
    assert got.intact()
    assert np.all(got.view == 9)
    histogram = inputs.Guarded((10, 35), np.int64, 0)
    large = np.zeros((0, 35), dtype=np.int64)
    fires = np.full(35, 9, dtype=np.int64)
    segments = inputs.bounds([9])
    assert cuda_on_host.ngram_coverage(mask, None, segments, fires, histogram.view, large) is None
    assert histogram.intact()
    assert np.all(histogram.view.sum(axis=0) == 1)


def covered(mask, order, segments, fires, bins, neurons, *, start=0, **how):
    """What the kernels and the reference add, and what either says is wrong."""
    n_large = int(np.count_nonzero(np.diff(segments) > bins))
    found = []
    for run in ("kernels", "reference"):
        histogram = inputs.Guarded((bins + 1, neurons), np.int64, start)
        large = inputs.Guarded((n_large, neurons), np.int64, start)
        arguments = (mask, order, segments, fires, histogram.view, large.view)
        wrong = None
        if run == "kernels":
            wrong = cuda_on_host.ngram_coverage(*arguments, **how)
            wrong = wrong and reference.contradicting_fires(
                *wrong, int(np.count_nonzero(np.diff(segments) == 1))
            )
        else:
            try:
                reference.ngram_coverage(*arguments)
            except IntegrityError as error:
                wrong = str(error)
        assert histogram.intact()
        assert large.intact()
        found.append((histogram.view, large.view, wrong))
    return found


def same(found):
    (histogram, large, wrong), (expected, expected_large, expected_wrong) = found
    assert np.array_equal(histogram, expected)
    assert np.array_equal(large, expected_large)
    assert wrong == expected_wrong


@pytest.mark.parametrize("neurons", inputs.NEURONS)
@pytest.mark.parametrize("bins", [1, 2, 3, 4, 20, 500])
def test_ngram_coverage(neurons, bins):
    ids, starts = inputs.corpus(600, seed=bins)
    _, order, segments = inputs.ngram_segments(inputs.ngram_rows(ids, starts, 2))
    fires = lattice_fires(600, neurons)
    totals = fires[order].sum(axis=0)
    mask = inputs.wide_mask(fires)
    for threads, teams in THREADS_AND_TEAMS:
        for longest in (1, 5, 4096):
            found = covered(
                mask,
                order,
                segments,
                totals,
                bins,
                neurons,
                start=2**40,
                longest=longest,
                threads=threads,
                teams=teams,
            )
            same(found)
            assert found[0][2] is None


@pytest.mark.parametrize("density", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33])
def test_more_segments_than_a_tally_holds(density, length):
    fires = inputs.bits(64, 40, density=density)
    segments = inputs.bounds([length] * 300)
    order = inputs.order(64, 300 * length)
    totals = fires[order].sum(axis=0)
    for teams in (1, 50):
        same(covered(reference.pack(fires), order, segments, totals, 40, 40, teams=teams))


@pytest.mark.parametrize("bins", [10, 9000])
def test_coverage_of_segments_longer_than_the_planes_count(bins):
    fires = inputs.bits(30, 33)
    fires[:, 0] = True
    segments = inputs.bounds([4096, 4097, 8192, 8999])
    order = inputs.order(30, int(segments[-1]))
    totals = fires[order].sum(axis=0)
    same(covered(reference.pack(fires), order, segments, totals, bins, 33, threads=2))


@pytest.mark.parametrize("change", [-1, 0, 1])
def test_coverage_that_contradicts_itself(change):
    fires = np.ones((40, 1100), dtype=bool)
    segments = inputs.bounds([1, 1, 1, 2, 20])
    totals = np.full(1100, 22 if change < 0 else 25, dtype=np.int64)
    totals[1050] += change
    totals[1060] += 2 * change
    found = covered(reference.pack(fires), None, segments, totals, 5, 1100, start=-7)
    same(found)
    assert (found[0][2] is None) == (change == 0)
    assert np.all(found[0][0] == -7) == (change != 0)


def listed(mask, order, segments, threshold, offsets, **how):
    """The lists of kernels and reference, and what either says is wrong."""
    found = []
    for run in ("kernels", "reference"):
        segment_of = inputs.Guarded((int(offsets[-1]),), np.int32, -5)
        fires = inputs.Guarded((int(offsets[-1]),), np.int64, -5)
        arguments = (mask, order, segments, threshold, offsets, segment_of.view, fires.view)
        wrong = None
        if run == "kernels":
            wrong = cuda_on_host.ngram_triggers(*arguments, **how)
            wrong = wrong and reference.contradicting_offsets(*wrong, offsets)
        else:
            try:
                reference.ngram_triggers(*arguments)
            except IntegrityError as error:
                wrong = str(error)
        assert segment_of.intact()
        assert fires.intact()
        found.append((segment_of.view, fires.view, wrong))
    return found


def offsets_of(mask, order, segments, threshold):
    counts = np.zeros((len(segments) - 1, len(threshold)), dtype=np.int64)
    reference.segment_counts(mask, order, segments, counts)
    return inputs.bounds((counts >= threshold).sum(axis=0))


@pytest.mark.parametrize("neurons", inputs.NEURONS)
def test_ngram_triggers_of_unsorted_segments(neurons):
    mask = inputs.wide_mask(lattice_fires(90, neurons))
    order = inputs.order(90, 500)
    lengths = np.random.default_rng(2).permutation(inputs.sorted_lengths(500))
    segments = inputs.bounds(lengths)
    threshold = np.random.default_rng(3).choice([1, 2, 4, 17, 64, NOTHING], neurons)
    offsets = offsets_of(mask, order, segments, threshold)
    for threads, teams in THREADS_AND_TEAMS:
        for longest in (1, 5, 4096):
            found = listed(
                mask,
                order,
                segments,
                threshold,
                offsets,
                longest=longest,
                threads=threads,
                teams=teams,
            )
            same(found)
            assert found[0][2] is None


@pytest.mark.parametrize("threshold", [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 69, 70])
def test_thresholds_at_the_edge_of_a_bit(threshold):
    """Neuron f fires on the first f rows of the segment, so counts straddle every threshold."""
    mask = reference.pack(np.tri(70, 70, -1, dtype=bool).T)
    segments = inputs.bounds([70])
    wanted = np.full(70, threshold, dtype=np.int64)
    offsets = offsets_of(mask, None, segments, wanted)
    assert offsets[-1] == 70 - threshold
    same(listed(mask, None, segments, wanted, offsets))


def test_triggers_of_segments_and_thresholds_beyond_the_planes():
    fires = inputs.bits(30, 40)
    fires[:, :3] = True
    mask = reference.pack(fires)
    segments = inputs.bounds([4096, 9000, 4097, 8191, 2])
    order = inputs.order(30, int(segments[-1]))
    threshold = np.random.default_rng(1).integers(1, 9000, 40)
    threshold[:3] = 8192, 9000, 2**32 + 2
    offsets = offsets_of(mask, order, segments, threshold)
    assert np.diff(offsets)[:3].tolist() == [1, 1, 0]
    same(listed(mask, order, segments, threshold, offsets, threads=2))


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("neuron", [1060, 1099])
def test_lists_that_do_not_fill_their_place(change, neuron):
    """Nor does the last one write behind all of them."""
    mask = reference.pack(np.ones((10, 1100), dtype=bool))
    room = np.full(1100, 10)
    room[neuron] += change
    room[1070:neuron] += change
    found = listed(
        mask,
        None,
        inputs.bounds([1] * 10),
        np.ones(1100, dtype=np.int64),
        inputs.bounds(room),
        threads=2,
    )
    same(found)
    assert f"neuron {min(neuron, 1070)} has 10" in found[0][2]
    assert np.all(found[0][0] == -5)


@pytest.mark.parametrize("lengths", [[], [0, 0], [0, 1], [1, 1, 1]])
def test_hardly_any_segments(lengths):
    fires = inputs.bits(10, 40)
    mask, segments = reference.pack(fires), inputs.bounds(lengths)
    counts, expected = np.full((2, len(lengths), 40), 3, dtype=np.int64)
    reference.segment_counts(mask, None, segments, expected)
    cuda_on_host.segment_counts(mask, None, segments, counts)
    assert np.array_equal(counts, expected)
    totals = fires[: segments[-1]].sum(axis=0)
    same(covered(mask, None, segments, totals, 5, 40))
    threshold = np.ones(40, dtype=np.int64)
    same(listed(mask, None, segments, threshold, offsets_of(mask, None, segments, threshold)))
