"""Definition 6 on a laptop: detectors against their triggers, beside two baselines."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from pyneurons.analysis.suppression import CRITERIA, MEASURES, shares, suppression
from pyneurons.errors import InputError

RANDOM, MATCHED = 50, 7


def made_up(detectors: int = 40, seed: int = 0) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Return the rows of a run, and the scores they were made from, one entry per detector.

    An entry is (layer, neuron, {end: (trigger scores, random scores, matched scores)}).
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {}
    truth = []
    for place in rng.permutation(400)[:detectors]:
        layer, neuron = divmod(int(place), 100)
        size = int(rng.integers(1, 6))
        scores = {}
        for end in MEASURES.values():
            shift = rng.normal()
            # Small integers: many scores are exactly 0, and 0 is not below 0.
            scores[end] = (
                np.round(rng.normal(shift, 2, size)),
                np.round(rng.normal(0, 2, RANDOM)),
                np.round(rng.normal(shift / 2, 2, (size, MATCHED))),
            )
        truth.append((layer, neuron, scores))
        for t in range(size):
            row = {
                "layer": layer, "neuron": neuron, "n": 1, "token": 10 * t, "rank": 100 * t + layer,
                "score": scores[""][0][t], "centred": scores["_centred"][0][t],
                "random_tokens": RANDOM, "matched_tokens": MATCHED,
            }  # fmt: skip
            for end in MEASURES.values():
                _, random, matched = scores[end]
                row[f"random_mean{end}"] = random.mean()
                row[f"random_negative{end}"] = (random < 0).sum()
                row[f"matched_mean{end}"] = matched[t].mean()
                row[f"matched_negative{end}"] = (matched[t] < 0).sum()
            for name, value in row.items():
                rows.setdefault(name, []).append(value)
    truth.sort(key=lambda entry: entry[:2])
    return {name: np.array(column) for name, column in rows.items()}, truth


def meets(criterion: str, scores: np.ndarray) -> bool:
    negative = sum(1 for score in scores.ravel() if score < 0)
    if criterion == "mean":
        return sum(scores.ravel().tolist()) / scores.size < -1e-12
    return negative * 2 > scores.size if criterion == "majority" else negative == scores.size


def test_each_detector_is_summed_up_as_in_a_loop():
    rows, truth = made_up()
    table = suppression(rows)
    assert len(table["layer"]) == len(truth)
    for i, (layer, neuron, scores) in enumerate(truth):
        assert (table["layer"][i], table["neuron"][i]) == (layer, neuron)
        assert table["triggers"][i] == scores[""][0].size
        assert table["best_rank"][i] == layer
        assert table["worst_rank"][i] == 100 * (scores[""][0].size - 1) + layer
        assert table["random_tokens"][i] == RANDOM
        assert table["matched_tokens"][i] == MATCHED * scores[""][0].size
        for end, three in scores.items():
            for who, values in zip(("", "random_", "matched_"), three, strict=True):
                assert table[f"{who}mean{end}"][i] == pytest.approx(values.mean(), abs=1e-12)
                assert table[f"{who}negative{end}"][i] == (values < 0).sum()
                for criterion in CRITERIA:
                    if criterion != "mean" or abs(values.mean()) > 1e-9:
                        is_below = table[f"{who}{criterion}_below{end}"][i]
                        assert is_below == meets(criterion, values), (i, who, criterion)


def test_the_order_of_rows_does_not_matter():
    rows, _ = made_up()
    order = np.random.default_rng(1).permutation(rows["layer"].size)
    first, second = suppression(rows), suppression({k: v[order] for k, v in rows.items()})
    for name, column in first.items():
        np.testing.assert_allclose(column, second[name], rtol=1e-12, atol=1e-12)


def test_matched_baselines_of_unequal_size_weigh_by_their_tokens():
    rows, _ = made_up(1, seed=3)
    rows = {name: np.repeat(column[:1], 2) for name, column in rows.items()}
    rows["matched_tokens"] = np.array([30, 10])
    rows["matched_mean"] = np.array([1.0, -7.0])
    rows["matched_negative"] = np.array([0, 10])
    table = suppression(rows)
    assert table["matched_mean"].tolist() == [-1.0]
    assert table["matched_tokens"].tolist() == [40]
    assert table["matched_majority_below"].tolist() == [False]


def test_the_chance_that_all_are_negative_is_that_of_every_choice():
    scores = np.array([-1, -1, -1, -1, 2, 0, -3])
    rows, _ = made_up(1, seed=3)
    for drawn in range(1, 8):
        own = {name: np.repeat(column[:1], drawn) for name, column in rows.items()}
        own["random_tokens"][:] = 7
        own["random_negative"][:] = (scores < 0).sum()
        choices = list(combinations(scores.tolist(), drawn))
        exact = sum(all(score < 0 for score in choice) for choice in choices) / len(choices)
        assert suppression(own)["random_all_chance"][0] == pytest.approx(exact, abs=1e-15)


def test_shares_are_those_of_the_table():
    rows, truth = made_up(60, seed=5)
    found = shares(suppression(rows))
    assert list(zip(found["measure"], found["criterion"], strict=True)) == [
        (measure, criterion) for measure in MEASURES for criterion in CRITERIA
    ]
    assert (found["detectors"] == 60).all()
    for i, (measure, criterion) in enumerate(
        zip(found["measure"], found["criterion"], strict=True)
    ):
        end = MEASURES[measure]
        for name, which in (("triggers", 0), ("random", 1), ("matched", 2)):
            expected = sum(meets(criterion, scores[end][which]) for _, _, scores in truth) / 60
            assert found[name][i] == pytest.approx(expected), (measure, criterion, name)
        assert np.isnan(found["random_chance"][i]) == (criterion != "all")


def test_without_detectors_shares_are_unknown():
    rows, _ = made_up(2)
    table = suppression({name: column[:0] for name, column in rows.items()})
    assert all(len(column) == 0 for column in table.values())
    found = shares(table)
    assert (found["detectors"] == 0).all()
    assert np.isnan(found["triggers"]).all()


def test_a_baseline_without_tokens_is_refused():
    rows, _ = made_up(3)
    rows["matched_tokens"][0] = 0
    place = f"{rows['layer'][0]}\\.{rows['neuron'][0]}"
    with pytest.raises(InputError, match=f"matched_tokens is 0 at neuron {place}"):
        suppression(rows)
