"""Definition 1 and what a run says about proofs, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from pyneurons.analysis.dead import (
    dead,
    dead_share,
    frequency,
    mean_alive_frequency,
    proofs,
    provably_dead,
    provably_on,
)
from pyneurons.errors import InputError, IntegrityError, ShapeError

TOKENS = 1000


def made_up(layers: int = 3, neurons: int = 65) -> np.ndarray:
    rng = np.random.default_rng(layers * neurons)
    fires = rng.integers(0, TOKENS + 1, size=(layers, neurons))
    fires[rng.random(fires.shape) < 0.4] = 0
    return fires


def test_dead_and_frequency_are_those_of_a_loop():
    fires = made_up()
    means = mean_alive_frequency(fires, TOKENS)
    for layer, row in enumerate(fires):
        alive = [int(value) for value in row if value != 0]
        assert dead(fires)[layer].tolist() == [value == 0 for value in row]
        assert frequency(fires, TOKENS)[layer].tolist() == [value / TOKENS for value in row]
        assert means[layer] == pytest.approx(sum(alive) / len(alive) / TOKENS, rel=1e-15)


def test_counts_past_a_float32_are_not_rounded():
    fires = np.array([[2**24 + 1, 2**24]])
    assert frequency(fires, 2**25)[0, 0] > frequency(fires, 2**25)[0, 1]


def test_a_layer_without_alive_neurons_has_no_mean():
    fires = np.array([[0, 0], [0, 4]])
    means = mean_alive_frequency(fires, 8)
    assert np.isnan(means[0])
    assert means[1] == 0.5


def test_frequency_refuses_no_tokens_and_too_many_fires():
    with pytest.raises(InputError, match="tokens is 0"):
        frequency(np.array([0]), 0)
    with pytest.raises(IntegrityError, match="fires 9 times on 8 tokens"):
        frequency(np.array([9]), 8)


def test_dead_share_after_so_many_tokens():
    rng = np.random.default_rng(3)
    first = rng.integers(-1, 50, size=(4, 33))
    first[0] = -1
    seen = np.array([0, 1, 2, 7, 49, 50, 51, 1000])
    share = dead_share(first, seen)
    for layer in range(4):
        for point, tokens in enumerate(seen):
            # A token counts as seen when its index is below the number of tokens seen.
            silent = sum(1 for value in first[layer] if value == -1 or not value < tokens)
            assert share[layer, point] == silent / 33
    assert (share[:, 0] == 1).all()
    assert (share[0] == 1).all()
    assert (np.diff(share, axis=1) <= 0).all()
    np.testing.assert_array_equal(share[:, -1], (first == -1).mean(axis=1))


def test_dead_share_does_not_depend_on_the_order_of_neurons_or_points():
    rng = np.random.default_rng(4)
    first = rng.integers(-1, 50, size=(2, 31))
    seen = np.array([30, 0, 10])
    shuffled = dead_share(first[:, rng.permutation(31)], seen[[2, 0, 1]])
    np.testing.assert_array_equal(shuffled, dead_share(first, seen)[:, [2, 0, 1]])


@pytest.mark.parametrize("shape", [(5,), (2, 0)])
def test_dead_share_refuses_what_has_no_neurons(shape: tuple[int, ...]):
    with pytest.raises(ShapeError, match="expected \\[L, F > 0\\]"):
        dead_share(np.zeros(shape, dtype=np.int64), np.array([1]))


def test_the_margin_decides_a_proof():
    sup, inf, margin = np.array([-0.1, -0.1, 0.5]), np.array([-3.0, 0.1, 0.3]), 0.1
    assert provably_dead(sup, np.array([0.1, 0.11, 0.0])).tolist() == [True, False, False]
    assert provably_on(inf, np.array([0.0, 0.1, margin])).tolist() == [False, False, True]


def bounds() -> dict[str, np.ndarray]:
    return {
        "fires": np.array([[0, 0, 0, 100], [5, 100, 7, 1]]),
        "z_max": np.array([[-2.0, -1.0, -0.25, 3.0], [1.0, 1.0, 1.0, 1.0]], dtype=np.float32),
        "z_sup": np.array([[-1.0, 0.5, 2.0, 4.0], [1.0, 1.0, 1.0, 1.0]]),
        "z_inf": np.array([[-9.0, -9.0, -9.0, 0.5], [-1.0, -1.0, -1.0, -1.0]]),
        "margin": np.full((2, 4), 0.125),
    }


def test_proofs_are_held_against_what_fired():
    table = proofs([3, 7], tokens=100, **bounds())
    assert table["layer"].tolist() == [3, 7]
    assert table["neurons"].tolist() == [4, 4]
    assert table["dead"].tolist() == [3, 0]
    assert table["provably_dead"].tolist() == [1, 0]
    assert table["provably_on"].tolist() == [1, 0]
    # The dead neuron 1 missed its proof by 0.5 + 0.125; neuron 2 came nearest to firing.
    assert table["nearest_proof"][0] == 0.625
    assert table["nearest_fire"][0] == -0.25
    assert np.isnan(table["nearest_proof"][1])
    assert np.isnan(table["nearest_fire"][1])


@pytest.mark.parametrize(
    ("place", "fires", "text"),
    [((0, 0), 1, "neuron 3.0 can never fire, and fired"), ((0, 3), 99, "neuron 3.3 always fires")],
)
def test_a_proof_that_a_counter_contradicts_is_an_error(place, fires, text):
    broken = bounds()
    broken["fires"][place] = fires
    with pytest.raises(IntegrityError, match=text):
        proofs([3, 7], tokens=100, **broken)
