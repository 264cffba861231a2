"""The reference against plain loops; the ops have theirs in the files of their names."""

from __future__ import annotations

import numpy as np
import pytest

import inputs
from pyneurons import ops, reference


@pytest.mark.parametrize("neurons", inputs.NEURONS)
def test_unpack_undoes_pack(neurons):
    fires = inputs.bits(23, neurons)
    mask = reference.pack(fires)
    assert mask.dtype == np.uint32
    assert mask.shape == (23, -(-neurons // 32))
    assert np.array_equal(reference.unpack(mask, neurons), fires)
    assert np.bitwise_count(mask).sum() == fires.sum()


def test_layout_of_a_mask():
    """Bit f % 32 of word f // 32, little endian; bits past F are zero."""
    for neuron in range(70):
        fires = np.zeros((1, 70), dtype=bool)
        fires[0, neuron] = True
        words = [0, 0, 0]
        words[neuron // 32] = 2 ** (neuron % 32)
        assert reference.pack(fires).tolist() == [words]
    assert reference.pack(np.ones((1, 70), dtype=bool)).tolist() == [[2**32 - 1, 2**32 - 1, 63]]


def test_pack_of_nothing():
    assert reference.pack(np.zeros((0, 40), dtype=bool)).shape == (0, 2)
    assert reference.unpack(np.zeros((0, 2), dtype=np.uint32), 40).shape == (0, 40)


def test_mix_is_splitmix64():
    """The published first outputs of splitmix64 seeded with 1234567."""
    golden, state, outputs = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(3):
        # mix(h, t) is splitmix64's output for the state h ^ (t + 1).
        outputs.append(reference.mix(state ^ 1, 0))
        state = (state + golden) % 2**64
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    ("neurons", "shape"),
    [(1, (1, 1)), (32, (1, 1)), (33, (1, 2)), (1024, (1, 32)), (1025, (2, 32)), (3072, (3, 32))],
)
def test_strip_shape(neurons, shape):
    assert ops.strip_shape(neurons) == shape
