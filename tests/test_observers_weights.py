"""Projected updates: scores on small integers are exact, so that tokens and ties are as well."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from pyneurons.observers import weights
from pyneurons.observers.weights import Baselines, Unembedding, observe_updates


def integers(seed: int, *shape: int, most: int = 3) -> torch.Tensor:
    drawn = np.random.default_rng(seed).integers(-most, most + 1, shape)
    return torch.from_numpy(drawn.astype(np.float32))


def baselines_of(unembedding: Unembedding) -> Baselines:
    counts = np.arange(int(unembedding.ids.max()) + 3, dtype=np.int64)
    return Baselines.build(np.repeat(unembedding.ids, 3), counts, unembedding.ids, boundary_id=-1)


def project(
    fc2_weight: torch.Tensor,
    unembedding: Unembedding,
    triggers: dict[int, list[tuple[int, np.ndarray]]] | None = None,
    threads: int = 2,
) -> tuple[dict[str, Any], dict[str, Any]]:
    baselines = baselines_of(unembedding)
    with ThreadPoolExecutor(threads) as pool:
        return observe_updates(fc2_weight, unembedding, triggers or {}, baselines, pool)


@pytest.mark.parametrize("block", [32, 96, 100, 8192])
@pytest.mark.parametrize("vocabulary", [1, 7, 10, 31, 32, 33, 500])
def test_tokens_scores_and_ties(
    vocabulary: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many scores are equal: 7 values for each of 4 terms; the lower id goes first."""
    monkeypatch.setattr(weights, "_VOCABULARY_BLOCK", block)
    monkeypatch.setattr(weights, "_NEURON_BLOCK", 16)
    rows, fc2 = integers(1, vocabulary, 4), integers(2, 4, 70)
    fc2[:, 5] = 0
    fc2[:, 6] = -0.0
    ids = 2 * np.arange(vocabulary) + 3
    found, _ = project(fc2, Unembedding(rows, ids, None, None))
    scores = (fc2.T @ rows.T).double().numpy()
    top = min(10, vocabulary)
    for sign, name in ((1, "promoted"), (-1, "suppressed")):
        order = np.argsort(-sign * scores, axis=1, kind="stable")[:, :top]
        np.testing.assert_array_equal(found[name], ids[order])
        np.testing.assert_array_equal(
            found[f"{name}_scores"], np.take_along_axis(scores, order, axis=1)
        )
        assert found[name].dtype == np.int32
        assert found[f"{name}_scores"].dtype == np.float32
    np.testing.assert_array_equal(found["mean_score"], scores.mean(axis=1).astype(np.float32))
    np.testing.assert_array_equal(found["neuron"], np.arange(70))


@pytest.mark.parametrize("projection", weights.PROJECTIONS)
@pytest.mark.parametrize("narrow", [False, True])
def test_projections(projection: str, narrow: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 8 if narrow else 12, generator=generator)
    fc2 = torch.randn(12, 40, generator=generator)
    out = torch.randn(8, 12, generator=generator) if narrow else None
    gain = torch.rand(12, generator=generator) + 0.5
    found, _ = project(fc2, Unembedding(rows, np.arange(300), out, gain, projection))
    update = fc2.double().numpy().T
    if projection == "final_norm":
        update = (update - update.mean(axis=1, keepdims=True)) * gain.double().numpy()
    if out is not None:
        update = update @ out.double().numpy().T
    table = rows.double().numpy()
    scores = update @ table.T
    if projection == "cosine":
        scores /= np.linalg.norm(update, axis=1)[:, None] * np.linalg.norm(table, axis=1)
    order = np.argsort(-scores, axis=1)[:, :10]
    np.testing.assert_array_equal(found["promoted"], order)
    np.testing.assert_allclose(
        found["promoted_scores"], np.take_along_axis(scores, order, axis=1), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(found["mean_score"], scores.mean(axis=1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_triggers(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_TRIGGER_BLOCK", 4)
    monkeypatch.setattr(weights, "_VOCABULARY_BLOCK", 64)
    rows, fc2, ids = integers(3, 200, 4), integers(4, 4, 50), np.arange(200) + 5
    triggers = {
        neuron: [(1, np.array([5, 40, 40, neuron + 9])), (3, np.array([204]))]
        for neuron in range(0, 50, 3)
    }
    unembedding = Unembedding(rows, ids, None, None)
    baselines = baselines_of(unembedding)
    _, found = project(fc2, unembedding, triggers, threads)
    scores = (fc2.T @ rows.T).numpy()
    at = 0
    for neuron in sorted(triggers):
        for n, tokens in triggers[neuron]:
            for token in np.unique(tokens):
                own = scores[neuron]
                assert found["neuron"][at] == neuron
                assert found["n"][at] == n
                assert found["token"][at] == token
                assert found["score"][at] == own[token - 5]
                assert found["rank"][at] == (own > own[token - 5]).sum()
                centred = own[token - 5] - own.mean(dtype=np.float64)
                assert found["centred"][at] == np.float32(centred)
                there = baselines.matched(np.unique(tokens))[list(np.unique(tokens)).index(token)]
                others = {"random": baselines.random(tokens), "matched": there}
                for name, ids_ in others.items():
                    values = own[ids_ - 5].astype(np.float64)
                    average = np.float32(values.mean())
                    assert found[f"{name}_tokens"][at] == values.size
                    assert found[f"{name}_mean"][at] == average
                    assert found[f"{name}_negative"][at] == (values < 0).sum()
                    low = (values < own.mean(dtype=np.float64)).sum()
                    assert found[f"{name}_negative_centred"][at] == low
                at += 1
    assert at == len(found["token"])


def test_a_failure_in_a_block_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(weights, "_merge_largest", fail)
    with pytest.raises(MemoryError):
        project(integers(0, 4, 20), Unembedding(integers(1, 30, 4), np.arange(30), None, None))
