"""Scores on a device that is not the CPU, run on CPU tensors: the same tokens as the CPU's own way."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import checkpoints
import pyneurons
from pyneurons.observers import unembedding, vocabulary, vocabulary_device
from pyneurons.observers.unembedding import Rounded, Unembedding
from pyneurons.result import Run, columns_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TABLES = ("vocabulary", "suppression")
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def made(
    seed: int,
    vocabulary_size: int,
    hidden: int,
    neurons: int,
    dtype: torch.dtype,
    projection: str = "dot",
    embedding: int | None = None,
) -> tuple[torch.Tensor, Unembedding]:
    """Rows with a common part and lengths that differ, as embeddings have them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    width = embedding or hidden
    rows = (draw(vocabulary_size, width) + draw(width)) * torch.exp(0.5 * draw(vocabulary_size, 1))
    fc2 = 0.05 * draw(hidden, neurons)
    out = draw(width, hidden) if embedding else None
    map_ = Unembedding(
        rows.to(dtype), np.arange(vocabulary_size) + 3, out, 1 + 0.3 * draw(hidden), projection
    )
    return fc2.to(dtype), map_


def on_cpu(fc2: torch.Tensor, rows: Unembedding) -> dict[str, np.ndarray]:
    assert rows.threaded
    with ThreadPoolExecutor(2) as pool:
        return vocabulary.extremes(fc2, rows, pool)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many neurons were scored on the whole vocabulary, call by call."""
    calls: list[int] = []
    honest = vocabulary_device._on_whole_vocabulary

    def counted(exact: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(len(exact))
        return honest(exact, *rest)

    monkeypatch.setattr(vocabulary_device, "_on_whole_vocabulary", counted)
    return calls


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("projection", unembedding.PROJECTIONS)
@pytest.mark.parametrize("embedding", [None, 24])
def test_tokens_are_those_of_the_cpu(
    dtype: torch.dtype, projection: str, embedding: int | None, whole: list[int]
) -> None:
    fc2, rows = made(1, 9_000, 96, 200, dtype, projection, embedding)
    expected, found = on_cpu(fc2, rows), vocabulary_device.extremes(fc2, rows)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert (values.dtype, values.shape) == (found[name].dtype, found[name].shape)
        if name.endswith("scores"):
            # Sums in float64 in another order, then rounded to float32.
            np.testing.assert_array_max_ulp(values, found[name], maxulp=1)
        elif name == "mean_score":
            np.testing.assert_allclose(values, found[name], rtol=1e-5, atol=1e-7)
        else:
            np.testing.assert_array_equal(values, found[name], err_msg=name)
    assert not whole  # the certificate holds where scores are as they come


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neurons_with_many_equal_scores_are_scored_on_everything(
    dtype: torch.dtype, whole: list[int]
) -> None:
    """An update of zeros, and one that sees three values: thousands of tokens share the tenth score."""
    generator = np.random.default_rng(5)
    rows = torch.from_numpy(generator.integers(-1, 2, (9_000, 8)).astype(np.float32)).to(dtype)
    fc2 = torch.from_numpy(generator.integers(-3, 4, (8, 100)).astype(np.float32)).to(dtype)
    fc2[:, 3] = 0
    fc2[1:, 50:] = 0
    map_ = Unembedding(rows, np.arange(9_000), None, None)
    found = vocabulary_device.extremes(fc2, map_)
    scores = fc2.T.double().numpy() @ rows.double().numpy().T
    for sign, name in ((1, "promoted"), (-1, "suppressed")):
        order = np.argsort(-sign * scores, axis=1, kind="stable")[:, :10]
        np.testing.assert_array_equal(found[name], order)
        expected = np.take_along_axis(scores, order, axis=1)
        np.testing.assert_array_equal(found[f"{name}_scores"], expected)
    assert sum(whole) >= 2 * 51
    assert max(whole) <= vocabulary_device._CROWDED


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_updates_of_any_size(scale: float, whole: list[int]) -> None:
    """Directions become numbers of float16 whatever their size, and the ten are the same."""
    fc2, rows = made(2, 5_000, 64, 60, torch.float16)
    expected = vocabulary_device.extremes(fc2, rows)
    found = vocabulary_device.extremes(fc2.float() * scale, rows)
    for name in ("promoted", "suppressed"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert not whole


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("projection", ["dot", "cosine"])
@pytest.mark.parametrize(("size", "spread"), [(1, 0), (1e-3, 0), (1, 8)])
def test_the_bound_holds_for_every_score(
    dtype: torch.dtype, projection: str, size: float, spread: int
) -> None:
    """Against float64; rows of float32 become float16, or bfloat16 where their lengths differ much."""
    fc2, rows = made(3, 4_500, 200, 50, dtype, projection)
    rows.rows.mul_(size * 2.0 ** -(torch.arange(4_500) % 3 * spread)[:, None])
    first = vocabulary_device._FirstPass.of(rows)
    kept = dtype if dtype != torch.float32 and projection == "dot" else torch.float16
    far = spread and dtype == torch.float32 and projection == "dot"
    assert first.rows.dtype == (torch.bfloat16 if far else kept)
    directions = rows.directions(fc2.T)
    scores, bound = first.scores(directions)
    scale = 2.0 ** -torch.frexp(directions.abs().amax(dim=1)).exponent.double()
    table = rows.take(torch.arange(4_500)).double() * rows.rounded.scale
    error = (scores.double() - directions.double() * scale[:, None] @ table.T).abs()
    limit = bound.double()[:, None] * first.lengths.double()
    assert bool((error <= limit).all())


@pytest.mark.parametrize("rounded", ["directions", "rows", "both"])
def test_the_bound_holds_for_vectors_along_each_other(rounded: str) -> None:
    """Every element rounded to float16 the same way: the worst there is, and the bound is near."""
    even, odd = 1.5, 1.5 + 0.49 * 2.0**-10
    fc2 = torch.full((256, 1), even if rounded == "rows" else odd)
    rows = Unembedding(
        torch.full((20, 256), even if rounded == "directions" else odd), np.arange(20), None, None
    )
    first = vocabulary_device._FirstPass.of(rows)
    scores, bound = first.scores(rows.directions(fc2.T))
    exact = 0.25 * fc2.double().T @ rows.rows.double().T  # elements between .5 and 1
    error = (scores.double() - exact).abs().max()
    limit = bound.double() * first.lengths[0].double()
    assert 0 < float(error) <= float(limit) <= 1.3 * float(error)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_candidates_hold_the_best_and_are_few(dtype: torch.dtype) -> None:
    fc2, rows = made(4, 9_000, 128, 100, dtype)
    first = vocabulary_device._FirstPass.of(rows)
    directions = rows.directions(fc2.T)
    scores, bound = first.scores(directions)
    column, upper, number, certain = vocabulary_device._candidates(scores, bound, first, 10)
    assert bool(certain.all())
    assert bool((number >= 10).all())
    assert float(number.double().mean()) < 12
    best = (directions.double() @ rows.rows.double().T).topk(10, dim=1).indices
    for neuron in range(100):
        order = upper[neuron].argsort(descending=True)[: number[neuron]]
        listed = column[neuron][order].tolist()
        assert set(best[neuron].tolist()) <= set(listed)
        assert len(set(column[neuron].tolist())) == column.shape[1]


def test_a_cut_sum_has_a_smaller_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    fc2, rows = made(5, 300, 256, 20, torch.float16)
    directions = rows.directions(fc2.T)
    at_once, bound = vocabulary_device._FirstPass.of(rows).scores(directions)
    monkeypatch.setattr(vocabulary_device, "_TERMS", 64)
    in_four, smaller = vocabulary_device._FirstPass.of(rows).scores(directions)
    torch.testing.assert_close(in_four, at_once, rtol=1e-5, atol=1e-3)
    assert bool((smaller < 0.5 * bound).all())


def test_scores_of_updates_as_on_the_cpu() -> None:
    fc2, rows = made(6, 9_000, 96, 30, torch.float16, "final_norm", 24)
    directions = rows.directions(fc2.T)
    expected, found = (torch.full((30, 9_000), torch.nan) for _ in range(2))
    with ThreadPoolExecutor(2) as pool:
        rows.scores(directions, expected, pool)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Unembedding, "threaded", False)
            rows.scores(directions, found, pool)
    exact = directions.double() @ rows.rows.double().T
    torch.testing.assert_close(found, exact.float(), rtol=0, atol=0)
    torch.testing.assert_close(expected, exact.float(), rtol=1e-4, atol=1e-3)


class OneDevice(TorchDispatchMode):
    """Every operator is given tensors of one device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        devices = {leaf.device for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        assert len(devices) <= 1, f"{func}: {devices}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("projection", unembedding.PROJECTIONS)
def test_nothing_is_on_another_device(projection: str) -> None:
    """On tensors without content; what waits for values has its own test on the CPU."""
    fc2, rows = made(7, 6_000, 96, 70, torch.float16, projection, 64)
    there, fc2 = rows.to("meta"), fc2.to("meta")
    if projection == "cosine":  # what is measured waits for values
        there.__dict__["rounded"] = Rounded(there.rows, 0.5, 0.01)
    assert not there.threaded
    with OneDevice(), ThreadPoolExecutor(1) as pool:
        directions = there.directions(fc2.T)
        first = vocabulary_device._FirstPass.of(there)
        scores, bound = first.scores(directions)
        for tensor in vocabulary_device._candidates(scores, bound, first, 10):
            assert tensor.device.type == "meta"
        vocabulary_device._on_whole_vocabulary(directions.double(), there, 10)
        there.take(torch.zeros(5, dtype=torch.int64, device="meta"))
        there.scores(directions, torch.empty(70, 6_000, device="meta"), pool)
        assert there.means(directions).device.type == "meta"


def test_a_map_on_its_own_device_is_not_copied() -> None:
    _, rows = made(8, 50, 32, 1, torch.float16, "dot", 16)
    same = rows.to("cpu")
    assert same.rows is rows.rows
    assert same.project_out is rows.project_out


class Peak(TorchDispatchMode):
    """Bytes of the tensors that are alive at the same time, made by operators, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, list[int]] = {}  # storage: bytes, tensors that hold it
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf) for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        made_now = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made_now):
            if not torch.is_tensor(tensor) or id(tensor) in given:
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self.alive:
                self.alive[key] = [storage.nbytes(), 0]
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
            self.alive[key][1] += 1
            weakref.finalize(tensor, self._gone, key)
        return made_now

    def _gone(self, key: int) -> None:
        self.alive[key][1] -= 1
        if not self.alive[key][1]:
            self.now -= self.alive.pop(key)[0]


@pytest.mark.parametrize(
    ("vocabulary_size", "embedding", "hidden", "dtype", "projection"),
    [
        (9_001, 256, 256, torch.float16, "dot"),
        (9_001, 256, 256, torch.float32, "dot"),
        (20_000, 128, 128, torch.float16, "cosine"),
        (3_000, 256, 64, torch.bfloat16, "final_norm"),
        (30_000, 64, 512, torch.float16, "dot"),
    ],
)
def test_memory_is_as_predicted(
    vocabulary_size: int,
    embedding: int,
    hidden: int,
    dtype: torch.dtype,
    projection: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vocabulary_device, "_EXACT", 1 << 18)
    monkeypatch.setattr(vocabulary_device, "_SCORES", 1 << 21)
    monkeypatch.setattr(Unembedding, "threaded", False)
    narrow = None if embedding == hidden else embedding
    fc2, rows = made(9, vocabulary_size, hidden, 720, dtype, projection, narrow)
    fc2[:, :80] = 0  # scored on the whole vocabulary

    def measured(work: Callable[[], object]) -> int:
        with Peak() as peak:
            work()
        return peak.most

    predicted = vocabulary_device.projection_bytes(
        vocabulary_size,
        embedding,
        hidden,
        item=dtype.itemsize,
        cosine=projection == "cosine",
    )
    most = measured(lambda: vocabulary_device.extremes(fc2, rows))
    assert 0.4 * predicted < most <= predicted
    some = torch.arange(256)
    with ThreadPoolExecutor(1) as pool:
        there = torch.empty(256, vocabulary_size)
        scored = measured(lambda: rows.scores(rows.directions(fc2[:, some].T), there, pool))
    assert scored <= predicted  # views of `there` count it


def test_neurons_that_are_projected_together() -> None:
    assert vocabulary_device.neuron_block(50_272) == 1024
    assert vocabulary_device.neuron_block(300) == 1024
    assert vocabulary_device.neuron_block(1 << 20) == 64
    assert vocabulary_device.neuron_block(1 << 24) == 16


def test_a_scan_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = checkpoints.build("350m", seed=3, vocab_size=5_000)
    for layer in model.model.decoder.layers:
        layer.fc1.bias.data[:48] -= 4  # seldom fire: possible detectors
    checkpoints.write_model(model, tmp_path / "model")
    ids = np.random.default_rng(0).zipf(1.4, 3_000).clip(1, 4_000) + 3

    def tables() -> list[dict[str, np.ndarray]]:
        run = pyneurons.scan(tmp_path / "model", [ids.tolist()], ngrams=(1, 2), progress=False)
        return [columns_of(Run.open(run.directory).table(name)) for name in TABLES]

    expected = tables()
    monkeypatch.setattr(Unembedding, "threaded", False)
    for one, other in zip(expected, tables(), strict=True):
        assert len(one["neuron"]) > 10
        for name, values in one.items():
            if np.asarray(values).dtype.kind == "f":
                np.testing.assert_allclose(other[name], values, rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(other[name], values, err_msg=name)
