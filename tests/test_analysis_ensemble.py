"""Definition 5, against sets built layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyneurons.analysis.ensemble import detected
from pyneurons.errors import InputError


def made_up(layers: list[int], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    rows = [
        (layer, neuron, rng.integers(0, 40, size=(rng.integers(1, 6), 2)).tolist())
        for layer in layers
        for neuron in range(int(rng.integers(0, 9)))
    ]
    held = rng.integers(1, 50, size=len(rows))
    return {
        "layer": np.array([row[0] for row in rows], int),
        "neuron": np.array([row[1] for row in rows], int),
        "covered": [row[2] for row in rows],
        "ngram_fires": held,
        "support": np.where(rng.random(len(rows)) < 0.5, held, 0),
    }


def pick(table: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    return {
        name: [column[i] for i in rows] if isinstance(column, list) else column[rows]
        for name, column in table.items()
    }


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_sets(seed: int):
    layers = list(range(7))
    table = made_up(layers, seed)
    found = detected(table, layers)
    sets = []
    for layer in layers:
        mine = [i for i in range(len(table["layer"])) if table["layer"][i] == layer]
        sets.append({tuple(gram) for i in mine for gram in table["covered"][i]})
        assert found["layer"][layer] == layer
        assert found["detectors"][layer] == len(mine)
        assert found["supported"][layer] == sum(
            20 * table["support"][i] >= 19 * table["ngram_fires"][i] for i in mine
        )
        lower = set().union(*sets[:-1])
        below = sets[-2] if layer else set()
        assert found["detected"][layer] == len(sets[-1])
        assert found["cumulative"][layer] == len(lower | sets[-1])
        assert found["seen_lower"][layer] == len(sets[-1] & lower)
        assert found["new"][layer] == len(sets[-1] - lower)
        assert found["seen_below"][layer] == len(sets[-1] & below)
        assert found["new_below"][layer] == len(sets[-1] - below)
    assert found["cumulative"][-1] == found["new"].sum()


def test_the_order_of_rows_and_layers_does_not_matter():
    layers = [0, 1, 2, 3]
    table = made_up(layers, 9)
    order = np.random.default_rng(1).permutation(len(table["layer"]))
    first, second = detected(table, layers), detected(pick(table, order), layers[::-1])
    for name, column in first.items():
        np.testing.assert_array_equal(column, second[name])


def test_the_layer_below_must_have_been_scanned():
    layers = [1, 2, 5]
    found = detected(made_up(layers, 2), layers)
    assert found["layer"].tolist() == layers
    assert (found["seen_below"] == -1).tolist() == [True, False, True]
    assert (found["new_below"] == -1).tolist() == [True, False, True]
    assert (found["seen_lower"] >= 0).all()


def test_layers_without_detectors_are_rows_too():
    none = pick(made_up([0], 1), np.zeros(0, int))
    found = detected(none, [0, 1])
    assert found["layer"].tolist() == [0, 1]
    for name in ("detectors", "detected", "cumulative", "new", "seen_below"):
        assert found[name].tolist() == [0, 0]


def test_a_detector_outside_the_layers_is_an_error():
    with pytest.raises(InputError, match="layer 3"):
        detected(made_up([3], 1), [0, 1])
