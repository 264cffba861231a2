"""Projected updates: scores on small integers are exact, so that tokens and ties are as well."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from pyneurons import _env
from pyneurons.observers import score_order, suppression, unembedding, vocabulary, vocabulary_device
from pyneurons.observers.suppression import MATCHED_TOKENS, RANDOM_TOKENS, Baselines
from pyneurons.observers.unembedding import Unembedding


def integers(seed: int, *shape: int, most: int = 3) -> torch.Tensor:
    drawn = np.random.default_rng(seed).integers(-most, most + 1, shape)
    return torch.from_numpy(drawn.astype(np.float32))


def extremes(fc2_weight: torch.Tensor, rows: Unembedding) -> dict[str, Any]:
    with ThreadPoolExecutor(2) as pool:
        return vocabulary.extremes(fc2_weight, rows, pool)


def random_of(drawn: np.ndarray, triggers: set[int]) -> list[int]:
    """The first 1,000 drawn tokens that are no triggers."""
    return [token for token in drawn.tolist() if token not in triggers][:RANDOM_TOKENS]


def matched_of(baselines: Baselines, trigger: int, triggers: set[int]) -> list[int]:
    """The 40 tokens nearest in count, then in place, then the rarer: a search through all."""
    count, place = baselines.count, baselines.place
    others = [token for token in baselines.by_count.tolist() if token not in triggers]
    others.sort(
        key=lambda token: (
            abs(int(count[token]) - int(count[trigger])),
            abs(int(place[token]) - int(place[trigger])),
            place[token],
        )
    )
    return others[:MATCHED_TOKENS]


@pytest.fixture(params=["float32", "bfloat16", "device", "device in pieces"], autouse=True)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whatever the first pass rounds to, and wherever it runs, results are the same."""
    monkeypatch.setattr(_env, "multiplies_bfloat16", lambda: request.param == "bfloat16")
    if request.param.startswith("device"):
        monkeypatch.setattr(Unembedding, "threaded", False)
    if request.param == "device in pieces":
        for name, value in {
            "_SCORES": 16, "_MOST_NEURONS": 16, "_TERMS": 2, "_ALIGNED": 2, "_GROUP": 8,
            "_LEAST_GROUPED": 80, "_GROUPS": 14, "_EXACT": 64, "_CROWDED": 3,
        }.items():  # fmt: skip
            monkeypatch.setattr(vocabulary_device, name, value)
        monkeypatch.setattr(unembedding, "_BLOCK", 100)
        for module in (unembedding, vocabulary_device):
            monkeypatch.setattr(module, "DOUBLE_ROWS", 30)
    return request.param


@pytest.mark.parametrize("block", [32, 96, 100, 8192])
@pytest.mark.parametrize("size", [1, 7, 10, 31, 32, 33, 500])
@pytest.mark.parametrize("most", [3, 1024])
def test_tokens_scores_and_ties(
    size: int, block: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many scores are equal: 7 values for each of 4 terms; the lower id goes first."""
    monkeypatch.setattr(vocabulary, "_VOCABULARY_BLOCK", block)
    monkeypatch.setattr(vocabulary, "NEURON_BLOCK", 16)
    monkeypatch.setattr(vocabulary, "_MOST_CANDIDATES", most)
    rows, fc2 = integers(1, size, 4), integers(2, 4, 70)
    fc2[:, 5] = 0
    fc2[:, 6] = -0.0
    ids = 2 * np.arange(size) + 3
    found = extremes(fc2, Unembedding(rows, ids, None, None))
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


@pytest.mark.parametrize("projection", unembedding.PROJECTIONS)
@pytest.mark.parametrize("narrow", [False, True])
def test_projections(projection: str, narrow: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 8 if narrow else 12, generator=generator)
    fc2 = torch.randn(12, 40, generator=generator)
    out = torch.randn(8, 12, generator=generator) if narrow else None
    gain = torch.rand(12, generator=generator) + 0.5
    found = extremes(fc2, Unembedding(rows, np.arange(300), out, gain, projection))
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
@pytest.mark.parametrize("projection", ["dot", "cosine"])
def test_triggers(threads: int, projection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number of every trigger, from the definitions; groups cut into many calls."""
    monkeypatch.setattr(suppression, "_GROUPS", 3)
    monkeypatch.setattr(suppression, "NEURON_BLOCK", 7)
    monkeypatch.setattr(unembedding, "ROWS", 64)
    generator = np.random.default_rng(9)
    rows, fc2, ids = integers(3, 200, 4), integers(4, 4, 50), 2 * np.arange(200) + 5
    if projection == "cosine":
        fc2 = torch.eye(4)[torch.arange(50) % 4].T.contiguous()
        rows = (
            torch.eye(4)[torch.arange(200) % 4] * (1 - 2.0 * (torch.arange(200) % 3 == 0))[:, None]
        )
    counts = generator.integers(0, 30, size=500)
    baselines = Baselines.build(generator.integers(0, 420, size=3000), counts, ids, boundary_id=7)
    groups = {
        (neuron, n): {5, 45, 403, 2 * neuron + 9, *generator.choice(ids, 3 * n).tolist()}
        for neuron in range(0, 50, 3)
        for n in (1, 3)
    }
    entries = [(neuron, n, t) for (neuron, n), own in groups.items() for t in [*own, 45, 4, 6]]
    generator.shuffle(entries)
    neurons, orders, tokens = np.array(entries).T
    triggers = {"neuron": neurons, "n": orders, "token": tokens}
    with ThreadPoolExecutor(threads) as pool:
        made = Unembedding(rows, ids, None, None, projection)
        found = suppression.suppression(fc2, made, triggers, baselines, pool)
    scores = (fc2.T @ rows.T).numpy().astype(np.float64)
    at = 0
    for neuron, n in sorted(groups):
        columns = {(token - 5) // 2 for token in groups[neuron, n]}
        own, mean = scores[neuron], scores[neuron].mean()
        for token in sorted(groups[neuron, n]):
            column = (token - 5) // 2
            expected = {
                "neuron": neuron,
                "n": n,
                "token": token,
                "score": np.float32(own[column]),
                "centred": np.float32(own[column] - mean),
                "rank": (own > own[column]).sum(),
            }
            for name, others in (
                ("random", random_of(baselines.drawn, columns)),
                ("matched", matched_of(baselines, column, columns)),
            ):
                values = own[others]
                expected |= {
                    f"{name}_tokens": values.size,
                    f"{name}_mean": np.float32(values.mean()),
                    f"{name}_negative": (values < 0).sum(),
                    f"{name}_mean_centred": np.float32(values.mean() - mean),
                    f"{name}_negative_centred": (values < mean).sum(),
                }
            assert {key: column[at] for key, column in found.items()} == expected
            at += 1
    assert at == len(found["token"])
    assert {key: column.dtype.type for key, column in found.items()} == suppression.COLUMNS


def test_no_triggers_no_rows() -> None:
    none = np.zeros(0, dtype=np.int64)
    ids = np.arange(30)
    baselines = Baselines.build(ids, np.ones(30, dtype=np.int64), ids, boundary_id=2)
    with ThreadPoolExecutor(1) as pool:
        found = suppression.suppression(
            integers(0, 4, 20),
            Unembedding(integers(1, 30, 4), ids, None, None),
            {"neuron": none, "n": none, "token": none},
            baselines,
            pool,
        )
    assert {key: (column.dtype.type, column.size) for key, column in found.items()} == {
        key: (dtype, 0) for key, dtype in suppression.COLUMNS.items()
    }


def test_a_failure_in_a_block_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(score_order, "keys", fail)
    with pytest.raises(MemoryError):
        extremes(integers(0, 4, 20), Unembedding(integers(1, 30, 4), np.arange(30), None, None))


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
    found = extremes(fc2, Unembedding(rows.half(), np.arange(5000), None, None))
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
    found = extremes(fc2, Unembedding(rows, np.arange(1000), None, None))
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
    bound = score_order.error_bound(
        direction.norm(dim=1), lost.norm(dim=1), float(lost_row.norm() / row.norm()), 256
    )
    exact = direction.double() @ row.double()
    near = direction.bfloat16().double() @ row.bfloat16().double()
    error = float((exact - near).abs())
    assert 0 < error <= float(bound * row.norm()) <= 1.02 * error
