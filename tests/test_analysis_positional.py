"""Definitions 7 and 8, on curves made to be of each type."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pyneurons.analysis.positional import (
    MI_THRESHOLD,
    TypeRules,
    bias,
    classify,
    firing_ranges,
    is_positional,
    mi_without_bos,
    mutual_information,
    positional,
)
from pyneurons.errors import InputError, IntegrityError, ShapeError

N = 200
CONTEXTS = [256, 2048]


def slow_information(fires: list[int], sequences: int) -> float:
    """Definition 7 term by term, in exact ratios."""
    context = len(fires)
    mean = Fraction(sum(fires), context * sequences)
    total = 0.0
    for k in fires:
        rate = Fraction(k, sequences)
        if rate > 0:
            total += float(rate) * math.log(rate / mean)
        if rate < 1:
            total += float(1 - rate) * math.log((1 - rate) / (1 - mean))
    return total / context


def sampled(curve: np.ndarray, seed: int, sequences: int = N) -> np.ndarray:
    """Draw the fires of one neuron [1, T]; a frequency of 0 or 1 has no noise."""
    rng = np.random.default_rng(seed)
    return rng.binomial(sequences, curve)[None]


def curves(context: int) -> dict[tuple[str, str], list[np.ndarray]]:
    """Return curves that the paper would call by these names; BOS fires or does not."""
    p = np.arange(context)
    u = p / context
    wave = np.sin(2 * np.pi * 5 * u)
    made: dict[tuple[str, str], list[np.ndarray]] = {
        ("oscillatory", "strong"): [
            (wave > 0.2).astype(float),
            np.clip(0.5 + 2.5 * wave, 0, 1),
            # No interval at 1; on those at 0 the frequency is 0.
            np.clip(0.6 * wave, 0, 1),
        ],
        ("oscillatory", "weak"): [
            0.5 + 0.4 * wave,
            0.03 + 0.94 * (wave > 0),
            np.where(wave > 0, 1.0, 0.02),
            np.clip(wave, 0, 1) * 0.7 + 0.05,
        ],
        ("both", "strong"): [
            (u > 0.6).astype(float),
            np.clip(4 * (u - 0.4), 0, 1),
            ((u > 0.3) & (u < 0.7)).astype(float),
        ],
        ("both", "weak"): [
            np.where(u > 0.6, 0.97, 0.02),
            np.where(u > 0.6, 1.0, 0.02),
            np.where(u > 0.6, 0.97, 0.0),
        ],
        ("one", "strong"): [
            np.where(u > 0.5, 0.6, 0.0),
            np.where(u > 0.5, 0.4, 1.0),
            np.clip(1.5 * (0.4 - u), 0, 1),
        ],
        ("one", "weak"): [np.where(u > 0.5, 0.6, 0.02), np.where(u > 0.5, 0.4, 0.98)],
        ("other", "weak"): [0.1 + 0.8 * u, np.where(u > 0.5, 0.8, 0.3)],
    }
    for group in made.values():
        for i, curve in enumerate(group):
            curve[0] = i % 2
    return made


@pytest.mark.parametrize("context", CONTEXTS)
def test_curves_have_the_type_they_were_made_of(context: int):
    for (kind, strength), group in curves(context).items():
        for i, curve in enumerate(group):
            for seed in range(3):
                fires = sampled(curve, seed)
                assert mutual_information(fires, N)[0] > MI_THRESHOLD
                found = tuple(column[0] for column in classify(fires, N))
                assert found == (kind, strength), (i, seed)


@pytest.mark.parametrize("context", CONTEXTS)
def test_types_do_not_change_with_many_sequences(context: int):
    for (kind, strength), group in curves(context).items():
        for curve in group:
            found = classify(sampled(curve, 4, 5000), 5000)
            assert tuple(column[0] for column in found) == (kind, strength)


@pytest.mark.parametrize("shape", [(1, 2), (33, 65), (7, 256), (2, 2048)])
def test_information_is_that_of_a_loop(shape: tuple[int, int]):
    rng = np.random.default_rng(shape[1])
    fires = rng.integers(0, N + 1, size=shape)
    fires[rng.random(shape) < 0.3] = 0
    fires[rng.random(shape) < 0.3] = N
    found = mutual_information(fires, N)
    assert found.dtype == np.float64
    for f in range(shape[0]):
        assert found[f] == pytest.approx(slow_information(fires[f].tolist(), N), abs=1e-14)


def test_small_information_keeps_its_digits():
    # One fire more at one of 2048 positions: I is about 1e-9 and the terms are about 1e-3.
    fires = np.full(2048, 500)
    fires[7] += 1
    fires[9] -= 1
    exact = sum((k - 500) ** 2 for k in fires.tolist()) / (2 * 1000**2 * 0.25 * 2048)
    assert mutual_information(fires[None], 1000)[0] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_the_dtype_of_the_counts_does_not_matter(dtype: type):
    fires = np.random.default_rng(0).integers(0, N + 1, size=(5, 300))
    np.testing.assert_array_equal(
        mutual_information(fires.astype(dtype), N), mutual_information(fires, N)
    )


@pytest.mark.parametrize("value", [0, 1, 77, N])
def test_a_constant_frequency_tells_nothing(value: int):
    assert mutual_information(np.full((3, 100), value), N).tolist() == [0.0] * 3


def test_half_of_the_positions_on_and_half_off_is_one_bit():
    fires = np.array([[0] * 8 + [N] * 8])
    assert mutual_information(fires, N)[0] == pytest.approx(math.log(2), rel=1e-15)


def test_permuting_neurons_or_positions():
    rng = np.random.default_rng(6)
    fires = rng.integers(0, N + 1, size=(41, 64))
    order = rng.permutation(41)
    np.testing.assert_array_equal(
        mutual_information(fires[order], N), mutual_information(fires, N)[order]
    )
    np.testing.assert_allclose(
        mutual_information(fires[:, rng.permutation(64)], N), mutual_information(fires, N)
    )
    np.testing.assert_allclose(mutual_information(N - fires, N), mutual_information(fires, N))


def test_blocks_of_neurons_do_not_change_the_answer():
    fires = np.random.default_rng(7).integers(0, N + 1, size=(2100, 1031))
    whole = mutual_information(fires, N)
    np.testing.assert_array_equal(whole[1990:2010], mutual_information(fires[1990:2010], N))


def test_without_sequences_there_is_no_information():
    assert np.isnan(mutual_information(np.zeros((2, 5), int), 0)).all()
    assert bias(0) == math.inf
    assert mutual_information(np.zeros((0, 5), int), N).shape == (0,)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("rate", "more"), [(0.01, 1.14), (0.3, 1.0), (0.9, 1.0)])
def test_noise_shows_the_bias_and_is_not_positional(context: int, rate: float, more: float):
    fires = np.random.default_rng(context).binomial(N, rate, size=(200, context))
    found = mutual_information(fires, N)
    # With two fires expected at a position the quadratic term of I is no longer all of it.
    assert found.mean() == pytest.approx(more * bias(N), rel=0.03)
    assert not is_positional(found, N).any()


@pytest.mark.parametrize("context", CONTEXTS)
def test_firing_at_bos_alone_is_not_positional(context: int):
    fires = np.zeros((1, context), int)
    fires[0, 0] = N
    assert 0 < mutual_information(fires, N)[0] < MI_THRESHOLD
    assert mi_without_bos(fires, N).tolist() == [0.0]


def test_bos_makes_no_interval():
    # At T = 16 firing at BOS alone passes the threshold, but there is no interval at 1.
    fires = np.zeros((1, 16), int)
    fires[0, 0] = N
    assert mutual_information(fires, N)[0] > MI_THRESHOLD
    assert classify(fires, N)[0].tolist() == ["one"]
    assert mi_without_bos(fires, N).tolist() == [0.0]
    # Seven positions after BOS are no interval, eight are.
    for last, kind in ((7, "other"), (8, "one")):
        fires = np.full((1, 16), N // 2)
        fires[0, : last + 1] = N
        assert classify(fires, N)[0].tolist() == [kind]


@pytest.mark.parametrize(("context", "length"), [(64, 8), (512, 8), (513, 9), (2048, 32)])
def test_an_interval_has_at_least_so_many_positions(context: int, length: int):
    assert TypeRules().interval(context) == length
    for run in (length - 1, length):
        fires = np.full((1, context), N // 2)
        fires[0, 20 : 20 + run] = 0
        assert classify(fires, N)[0].tolist() == ["one" if run == length else "other"]


@pytest.mark.parametrize(
    ("fires", "kind"), [(10, "one"), (11, "other"), (190, "one"), (189, "other")]
)
def test_weak_means_at_most_a_twentieth(fires: int, kind: str):
    curve = np.full((1, 256), N // 2)
    curve[0, 100:150] = fires
    assert [column[0] for column in classify(curve, N)] == [kind, "weak"]


def test_the_ends_of_an_interval_may_be_gradual():
    curve = np.full((1, 256), N // 2)
    curve[0, 100:150] = 0
    curve[0, [99, 150]] = 5  # nearly 0, and part of the same run
    assert [column[0] for column in classify(curve, N)] == ["one", "strong"]
    curve[0, 100:150:4] = 5
    assert [column[0] for column in classify(curve, N)] == ["one", "weak"]


def test_three_crossings_make_an_oscillation():
    u = np.arange(2048) / 2048
    for halves, kind in ((2, "both"), (3, "both"), (4, "oscillatory"), (9, "oscillatory")):
        square = (np.floor(u * halves) % 2).astype(int) * N
        assert classify(square[None], N)[0].tolist() == [kind], halves
    # Dips that stop short of a quarter of the span are no crossings.
    shallow = np.where(np.floor(u * 9) % 2 == 1, N, N // 2)
    shallow[:300] = 0
    assert classify(shallow[None], N)[0].tolist() == ["both"]


@pytest.mark.parametrize(("low", "high", "kind"), [(50, N, "both"), (49, N, "oscillatory")])
def test_a_quarter_of_the_span_itself_is_not_below_a_quarter(low: int, high: int, kind: str):
    levels = np.repeat([0, high, low, high, low, high], 40)[None]
    assert classify(levels, N)[0].tolist() == [kind]
    assert classify(N - levels, N)[0].tolist() == [kind]


def test_the_rules_are_parameters():
    u = np.arange(256) / 256
    square = (np.floor(u * 6) % 2).astype(int)[None] * N  # five crossings
    assert classify(square, N)[0].tolist() == ["oscillatory"]
    assert classify(square, N, TypeRules(crossings=6))[0].tolist() == ["both"]
    assert classify(square, N, TypeRules(least_interval=43, smoothing=8))[0].tolist() == [
        "oscillatory"
    ]
    assert classify(square, N, TypeRules(least_interval=44, crossings=9))[0].tolist() == ["other"]
    assert classify(square, N, TypeRules(smoothing=250))[0].tolist() != ["oscillatory"]
    weak = np.where(square == 0, N // 10, N)
    assert classify(weak, N, TypeRules(crossings=9))[0].tolist() == ["one"]
    rules = TypeRules(crossings=9, weak="0.1")  # type: ignore[arg-type]
    assert [column[0] for column in classify(weak, N, rules)] == ["both", "weak"]
    assert TypeRules(interval_divisor=16).interval(2048) == 128


@pytest.mark.parametrize(
    "change", [{"low": 0.8}, {"weak": 0}, {"smoothing": 0}, {"least_interval": 0}]
)
def test_rules_that_make_no_sense_are_refused(change: dict[str, Any]):
    with pytest.raises(InputError):
        TypeRules(**change)


def test_one_layer_as_a_table():
    rng = np.random.default_rng(1)
    made = curves(256)
    fires = rng.binomial(N, 0.2, size=(50, 256))
    places = {7: ("oscillatory", "weak"), 20: ("both", "strong"), 49: ("other", "weak")}
    for f, name in places.items():
        fires[f] = sampled(made[name][0], f)[0]
    table = positional(5, fires, N)
    assert table["layer"].tolist() == [5, 5, 5]
    assert table["neuron"].tolist() == list(places)
    assert list(zip(table["type"], table["strength"], strict=True)) == list(places.values())
    information = mutual_information(fires, N)
    np.testing.assert_array_equal(table["mi"], information[list(places)])
    np.testing.assert_array_equal(
        table["mi_without_bos"], mutual_information(fires[list(places), 1:], N)
    )
    assert set(table["bias"]) == {1 / (2 * N)}
    assert set(table["sequences"]) == {N}
    known = positional(5, fires, N, information=information)
    assert known["neuron"].tolist() == list(places)
    assert positional(5, fires, N, mi=10.0)["neuron"].size == 0
    with pytest.raises(ShapeError, match=r"information has shape \[49\], expected \[50\]"):
        positional(5, fires, N, information=information[1:])


def test_the_threshold_itself_does_not_pass():
    assert is_positional(np.array([0.05, 0.0500001]), N).tolist() == [False, True]


def test_few_sequences_decide_nothing():
    fires = np.array([[0] * 32 + [49] * 32])
    information = mutual_information(fires, 49)
    assert information[0] > 0.6
    assert is_positional(information, 49) is None
    assert is_positional(information, 49, min_sequences=49).tolist() == [True]
    assert positional(0, fires, 49)["neuron"].size == 0
    assert positional(0, fires, 49, min_sequences=49)["type"].tolist() == ["both"]


def test_ranges_on_which_a_neuron_fires():
    fires = np.zeros(40, int)
    fires[[0, 1, 2]] = N
    fires[10:15] = N // 2
    fires[20] = N
    fires[39] = N
    assert firing_ranges(fires, N) == [(1, 2), (10, 14), (20, 20), (39, 39)]
    assert firing_ranges(fires, N, first=0) == [(0, 2), (10, 14), (20, 20), (39, 39)]
    assert firing_ranges(fires, N, share="0.51") == [(1, 2), (20, 20), (39, 39)]
    assert firing_ranges(fires, N, least=2) == [(1, 2), (10, 14)]
    assert firing_ranges(np.zeros(40, int), N) == []


def test_counts_that_cannot_be_are_refused():
    with pytest.raises(IntegrityError, match="expected 0 to 3"):
        mutual_information(np.array([[4, 0]]), 3)
    with pytest.raises(ShapeError, match="integers"):
        mutual_information(np.array([[0.5, 0.25]]), 3)
    with pytest.raises(ShapeError, match=r"shape \[2\]"):
        classify(np.array([1, 2]), 3)


@pytest.mark.parametrize("context", [16, 2048])
def test_the_order_of_memory_does_not_matter(context: int):
    fires = np.random.default_rng(5).integers(0, N + 1, size=(9, context)).astype(np.uint8)
    by_position = np.asfortranarray(fires)
    np.testing.assert_array_equal(mutual_information(by_position, N), mutual_information(fires, N))
    for name, column in positional(0, by_position, N, mi=0.0).items():
        np.testing.assert_array_equal(column, positional(0, fires, N, mi=0.0)[name])
