"""Projected updates: scores on small integers are exact, so that tokens and ties are as well."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from pyneurons import _env
from pyneurons.observers import suppression, vocabulary
from pyneurons.observers.suppression import Baselines
from pyneurons.observers.vocabulary import Unembedding


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
        return (
            vocabulary.extremes(fc2_weight, unembedding, pool),
            suppression.suppression(fc2_weight, unembedding, triggers or {}, baselines, pool),
        )


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str, autouse=True)
def first_pass(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Whatever the first pass rounds to, results are the same."""
    monkeypatch.setattr(_env, "multiplies_bfloat16", lambda: request.param == torch.bfloat16)
    return request.param


@pytest.mark.parametrize("block", [32, 96, 100, 8192])
@pytest.mark.parametrize("size", [1, 7, 10, 31, 32, 33, 500])
@pytest.mark.parametrize("most", [3, 1024])
def test_tokens_scores_and_ties(
    size: int, block: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many scores are equal: 7 values for each of 4 terms; the lower id goes first."""
    monkeypatch.setattr(vocabulary, "_VOCABULARY_BLOCK", block)
    monkeypatch.setattr(vocabulary, "_NEURON_BLOCK", 16)
    monkeypatch.setattr(vocabulary, "_MOST_CANDIDATES", most)
    rows, fc2 = integers(1, size, 4), integers(2, 4, 70)
    fc2[:, 5] = 0
    fc2[:, 6] = -0.0
    ids = 2 * np.arange(size) + 3
    found, _ = project(fc2, Unembedding(rows, ids, None, None))
    scores = (fc2.T @ rows.T).double().numpy()
    top = min(10, size)
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


@pytest.mark.parametrize("projection", vocabulary.PROJECTIONS)
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
    monkeypatch.setattr(suppression, "_TRIGGER_BLOCK", 4)
    monkeypatch.setattr(vocabulary, "_VOCABULARY_BLOCK", 64)
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

    monkeypatch.setattr(vocabulary, "_keys", fail)
    with pytest.raises(MemoryError):
        project(integers(0, 4, 20), Unembedding(integers(1, 30, 4), np.arange(30), None, None))


@pytest.mark.parametrize("spread", [0.0, 3.0], ids=["lengths-alike", "lengths-apart"])
def test_a_rounded_first_pass_loses_no_token(
    spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gaussian data: the ten are those of exact scores, with their order."""
    monkeypatch.setattr(vocabulary, "_VOCABULARY_BLOCK", 1024)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(5000, 48, generator=generator)
    rows *= torch.exp(spread * torch.randn(5000, 1, generator=generator))
    fc2 = torch.randn(48, 300, generator=generator)
    found, _ = project(fc2, Unembedding(rows.half(), np.arange(5000), None, None))
    scores = (fc2.T.double() @ rows.half().double().T).float().numpy()
    for sign, name in ((1, "promoted"), (-1, "suppressed")):
        order = np.argsort(-sign * scores, axis=1, kind="stable")[:, :10]
        np.testing.assert_array_equal(found[name], order)
        np.testing.assert_array_equal(
            found[f"{name}_scores"], np.take_along_axis(scores, order, axis=1)
        )


def test_rounding_that_works_against_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens 20 to 29 score 32.73, but 32.50 with all terms rounded down; the others score 32.71,
    and 32.94 with all terms rounded up: only the bound on the error keeps the ten.
    """
    monkeypatch.setattr(vocabulary, "_VOCABULARY_BLOCK", 64)
    down, up = 1 + 2.0**-7 + 0.9 * 2.0**-8, 1 + 2.0**-7 + 1.1 * 2.0**-8
    fc2 = torch.cat([torch.full((32, 3), down), torch.full((32, 3), up)])
    fc2[:, 2] *= -1
    rows = torch.zeros(1000, 64)
    rows[:, 32:63], rows[:, 63] = up, 0.9453125
    rows[20:30, :32], rows[20:30, 32:] = down, 0
    found, _ = project(fc2, Unembedding(rows, np.arange(1000), None, None))
    for neuron, name in ((0, "promoted"), (1, "promoted"), (2, "suppressed")):
        np.testing.assert_array_equal(found[name][neuron], np.arange(20, 30))


@pytest.mark.parametrize("rounded", ["directions", "rows", "both"])
def test_the_bound_on_rounding_holds_and_is_near(rounded: str) -> None:
    """Vectors along each other, every element rounded the same way: the worst there is."""
    even, odd = 1.5, 1.5 + 0.9 * 2.0**-8
    direction = torch.full((1, 256), even if rounded == "rows" else odd)
    row = torch.full((256,), even if rounded == "directions" else odd)
    lost = direction - direction.bfloat16().float()
    lost_row = row - row.bfloat16().float()
    bound = vocabulary._error(
        direction.norm(dim=1), lost.norm(dim=1), float(lost_row.norm() / row.norm()), 256
    )
    exact = direction.double() @ row.double()
    near = direction.bfloat16().double() @ row.bfloat16().double()
    error = float((exact - near).abs())
    assert 0 < error <= float(bound * row.norm()) <= 1.02 * error


@pytest.mark.parametrize("number", [1, 2, 7, 30, 199, 200])
def test_matched_tokens_equal_a_search_through_all(number):
    """Triggers side by side, at both ends and all there are: none of them is its own match."""
    generator = np.random.default_rng(number)
    counts = generator.integers(0, 6, size=204)
    counts[:4] = 0
    baselines = Baselines.build(np.arange(4, 204), counts, np.arange(4, 204), 2)
    order = baselines.by_count
    for chosen in (order[:number], order[-number:], generator.permutation(order)[:number]):
        triggers = np.unique(chosen)
        others = [token for token in order.tolist() if token not in set(triggers.tolist())]
        for trigger, found in zip(triggers, baselines.matched(triggers), strict=True):
            near = sorted(
                others,
                key=lambda token, own=trigger: (
                    abs(int(counts[token]) - int(counts[own])),
                    abs(int(baselines.place[token] - baselines.place[own])),
                    baselines.place[token],
                ),
            )[:40]
            assert found[found >= 0].tolist() == near


@pytest.mark.parametrize("number", [1, 8, 9, 40])
def test_ranks_count_what_is_larger(number):
    scores = np.random.default_rng(number).integers(-20, 20, size=300).astype(np.float32)
    own = scores[:number]
    assert suppression._ranks(scores, own).tolist() == [int((scores > s).sum()) for s in own]
