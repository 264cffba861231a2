"""Neurons in the order of their fires: the block gives the same, and counters find their way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import inputs
from live_tiles import expected_live_share, firing_blocks, live_tiles, spread_rates
from pyneurons import _env, backends, corpus, demo, ops, reference
from pyneurons.corpus import ngram_index
from pyneurons.engine.counting import join
from pyneurons.engine.mask import StripShape
from pyneurons.engine.neuron_order import (
    bits_by_neuron,
    counters_by_neuron,
    neuron_order,
    ngrams_by_neuron,
    ordered_weights,
)
from pyneurons.errors import ShapeError
from pyneurons.model import opt
from pyneurons.model.checkpoint import Checkpoint
from pyneurons.observers.firing import FiringObserver
from pyneurons.observers.ngram import NgramCounts, NgramObserver
from pyneurons.observers.position import PositionObserver
from pyneurons.panels import Panels, SplitPanels

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.also_on("triton")


def test_from_many_fires_to_none_and_equal_ones_by_id() -> None:
    fires = torch.tensor([0, 5, 0, 7, 5, 0, 1])
    assert neuron_order(fires).tolist() == [3, 1, 4, 6, 0, 2, 5]
    many = torch.from_numpy(np.random.default_rng(0).integers(0, 4, 5000))
    expected = sorted(range(5000), key=lambda neuron: (-int(many[neuron]), neuron))
    assert neuron_order(many).tolist() == expected
    assert neuron_order(many.int()).tolist() == expected


def an_order(neurons: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, neurons)).permutation(neurons))


# --- the block ------------------------------------------------------------------------------------


def run(
    x: Tensor, fc1: Any, bias1: Tensor | None, fc2: Any, bias2: Tensor | None, backend: str
) -> tuple[Tensor, np.ndarray, Tensor]:
    """The residual, the mask and the largest z of one block."""
    neurons, outer = fc1.shape[0], fc2.shape[0]
    strips, strip_words = ops.strip_shape(neurons)
    residual = torch.zeros(len(x), outer)
    mask = np.full((strips, len(x), strip_words), 0xDEADBEEF, dtype=np.uint32)
    z_max = torch.full((neurons,), -torch.inf)
    ops.ffn(x, fc1, bias1, fc2, bias2, residual, mask, z_max, backend=backend)
    return residual, mask, z_max


def test_lattices_give_the_same_in_any_order(backend: str) -> None:
    """Sums are exact, so the residual is equal as well."""
    for neurons, dtype in ((100, torch.float32), (1100, torch.bfloat16)):
        x = torch.from_numpy(inputs.lattice((70, 24), 1, 2)).to(dtype)
        fc1 = torch.from_numpy(inputs.lattice((neurons, 24), 2)).to(dtype)
        bias1 = torch.from_numpy(inputs.lattice((neurons,), 3)).to(dtype)
        fc2 = torch.from_numpy(inputs.lattice((9, neurons), 4, 2)).to(dtype)
        bias2 = torch.from_numpy(inputs.lattice((9,), 5)).to(dtype)
        bias1[::3] = -1000  # dead
        residual, mask, z_max = run(x, fc1, bias1, fc2, bias2, backend)
        shape = StripShape.of(neurons)
        flat = mask.transpose(1, 0, 2).reshape(len(x), -1)
        fires = reference.unpack(flat, neurons).sum(axis=0)
        order = neuron_order(torch.from_numpy(fires))
        assert not (fires[order[-neurons // 3 :].numpy()]).any()
        weights = ordered_weights(order, fc1, bias1, fc2)
        other = run(x, *weights, bias2, backend)
        assert torch.equal(other[0], residual)
        assert not np.array_equal(other[1], mask)
        np.testing.assert_array_equal(bits_by_neuron(other[1], order.numpy(), shape), mask)
        back = counters_by_neuron({"z_max": other[2].numpy()}, order.numpy())
        np.testing.assert_array_equal(back["z_max"], z_max.numpy())


def demo_block(layer: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, dict[str, Tensor]]:
    """What fc1 reads in a layer of the demo model on its own text, and the layer's weights."""
    checkpoint = Checkpoint(demo.model_directory())
    config = checkpoint.config
    ids = torch.from_numpy(np.random.default_rng(0).integers(4, config.vocab_size, 256))
    hidden = opt.embed(ids, torch.arange(256), checkpoint.read_embeddings(), config)
    seen: list[Tensor] = []
    real = ops.ffn

    def keep(x: Tensor, *arguments: Any, **options: Any) -> None:
        seen.append(x.clone())
        real(x, *arguments, **options)

    monkeypatch.setattr(ops, "ffn", keep)
    for i in range(layer + 1):
        raw = checkpoint.read_layer(i)
        mask = np.zeros((1, 256, config.ffn_dim // 32), dtype=np.uint32)
        z_max = torch.zeros(config.ffn_dim)
        opt.decoder_layer(hidden, [256], opt.convert_layer(raw, config, torch.float32), mask, z_max)
    monkeypatch.undo()
    return seen[-1], {name: tensor.float() for name, tensor in raw.items()}


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("kind", ["split float32", "bfloat16"])
def test_real_weights_give_the_layer_s_own_bits(
    layer: int, kind: str, cpp_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given the same input, where the order of terms of a sum does not depend on the neuron's place.

    What fc2 adds differs by rounding alone.
    """
    x, raw = demo_block(layer, monkeypatch)

    def block(fc1: Tensor, bias1: Tensor | None, fc2: Tensor) -> Any:
        if kind == "bfloat16":
            panels = (Panels.of(fc1.bfloat16()), Panels.of(fc2.bfloat16()))
            bias = None if bias1 is None else bias1.bfloat16()
            return run(x.bfloat16(), panels[0], bias, panels[1], None, cpp_backend)
        split = SplitPanels.of(fc1.half(), "fc1"), SplitPanels.of(fc2.half(), "fc2")
        return run(x, split[0], bias1, split[1], None, cpp_backend)

    plain = raw["fc1.weight"], raw["fc1.bias"], raw["fc2.weight"]
    residual, mask, z_max = block(*plain)
    neurons = len(z_max)
    shape = StripShape.of(neurons)
    fires = reference.unpack(mask.transpose(1, 0, 2).reshape(len(x), -1), neurons).sum(axis=0)
    order = neuron_order(torch.from_numpy(fires))
    other = block(*ordered_weights(order, *plain))
    np.testing.assert_array_equal(bits_by_neuron(other[1], order.numpy(), shape), mask)
    back = counters_by_neuron({"z_max": other[2].numpy()}, order.numpy())
    np.testing.assert_array_equal(back["z_max"], z_max.numpy())
    assert not torch.equal(other[0], residual)
    torch.testing.assert_close(other[0], residual, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("route", ["fused", "torch"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_leaving_out_tiles_of_real_weights_in_order_changes_no_bit(
    route: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reason := backends.why_not("triton")) and "triton" not in _env.required_backends():
        pytest.skip(reason)
    from pyneurons.backends import triton_ffn

    x, raw = demo_block(1, monkeypatch)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = x[:100].to(device, dtype)
    weights = [raw[name].to(device, dtype) for name in ("fc1.weight", "fc1.bias", "fc2.weight")]
    neurons, outer = len(weights[1]), len(weights[2])

    def launch(weights: Any, *, skip: bool) -> tuple[Tensor, Tensor]:
        strips, strip_words = ops.strip_shape(neurons)
        residual = torch.zeros(len(x), outer, device=device)
        mask = torch.zeros(strips, len(x), strip_words, dtype=torch.int32, device=device)
        z_max = torch.full((neurons,), -torch.inf, device=device)
        triton_ffn.ffn(x, *weights, None, residual, mask, z_max, skip=skip, route=route)
        return residual, mask.cpu()

    _, mask = launch(weights, skip=False)
    flat = mask.numpy().view(np.uint32).transpose(1, 0, 2).reshape(len(x), -1)
    order = neuron_order(torch.from_numpy(reference.unpack(flat, neurons).sum(axis=0)))
    in_order = ordered_weights(order.to(device), *weights)
    every, live = (launch(in_order, skip=skip) for skip in (False, True))
    assert torch.equal(live[0], every[0])
    assert torch.equal(live[1], every[1])
    # Words of 32 neurons that are silent: none in the layer's own order, some in this one.
    assert (flat != 0).any(axis=0).all()
    silent = ~(live[1].numpy() != 0).any(axis=(0, 1))
    assert silent[-2:].all()


# --- what the observers found ---------------------------------------------------------------------


NEURONS = 1100
"""Two strips, the second one ragged."""


def observed(
    made: corpus.Corpus, fires: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[int, NgramCounts]]:
    """What all observers find on a mask, strip by strip, as the engine joins it."""
    shape = StripShape.of(fires.shape[1])
    firing, position = FiringObserver.build(made), PositionObserver.build(made)
    ngrams = {
        n: NgramObserver.build(made, ngram_index.build(made, n), list_limit=8) for n in (1, 2)
    }
    parts, positions = [], []
    found: dict[int, list[tuple[int, NgramCounts]]] = {n: [] for n in ngrams}
    for strip in range(shape.strips):
        start, stop = shape.range(strip)
        words = reference.pack(fires[:, start:stop])
        given: Any = {"backend": None, "threads": 1}
        parts.append(firing.observe(words, stop - start, **given))
        positions.append(position.observe(words, stop - start, **given)["position_fires"])
        for n, observer in ngrams.items():
            found[n].append((start, observer.observe(words, parts[-1]["fires"], **given)))
    arrays = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    arrays["position_fires"] = np.concatenate(positions, axis=-1)
    return arrays, {n: join(some) for n, some in found.items()}


def test_counters_brought_back_are_those_of_the_mask_in_its_own_order() -> None:
    generator = np.random.default_rng(5)
    ids = np.minimum(generator.zipf(1.5, size=2500) + 2, 90)
    ids[::17] = 2  # separators
    made = corpus.read(ids, None, context=40, vocab_size=100)
    # Some dead, some that fire on a few tokens alone, and whatever else.
    fires = generator.random((made.tokens, NEURONS)) < generator.random(NEURONS) ** 6
    tokens = np.asarray(made.ids)
    for neuron in range(0, NEURONS, 7):
        fires[:, neuron] = np.isin(tokens, generator.integers(3, 90, neuron % 4))
    arrays, ngrams = observed(made, fires)
    assert {"fires", "examples", "first_fire", "position_fires", "domain_fires"} <= set(arrays)
    order = neuron_order(torch.from_numpy(arrays["fires"])).numpy()
    assert (arrays["fires"][order[-30:]] == 0).all()
    for by in (order, an_order(NEURONS).numpy()):
        other, other_ngrams = observed(made, fires[:, by])
        back = counters_by_neuron(other, by)
        assert set(back) == set(arrays)
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype
            np.testing.assert_array_equal(back[name], array, err_msg=name)
            assert not np.array_equal(other[name], array), name
        for n, counts in ngrams.items():
            found = ngrams_by_neuron(other_ngrams[n], by)
            assert found.n == counts.n
            assert counts.rows["neuron"].size > 1000
            for name in ("ngram_fires", "offsets", "count", "number", "coverage"):
                array = getattr(counts, name)
                assert getattr(found, name).dtype == array.dtype
                np.testing.assert_array_equal(getattr(found, name), array, err_msg=name)
            assert set(found.rows) == set(counts.rows)
            for name, array in counts.rows.items():
                assert found.rows[name].dtype == array.dtype
                np.testing.assert_array_equal(found.rows[name], array, err_msg=name)


def test_no_ngrams_and_no_neurons_that_fire() -> None:
    made = corpus.read(np.arange(3, 60), None, context=40, vocab_size=100)
    fires = np.zeros((made.tokens, 40), dtype=bool)
    arrays, ngrams = observed(made, fires)
    order = an_order(40).numpy()
    np.testing.assert_array_equal(counters_by_neuron(arrays, order)["examples"], -1)
    found = ngrams_by_neuron(ngrams[1], order)
    assert found.offsets.tolist() == [0] * 41
    assert found.rows["neuron"].size == 0


@pytest.mark.parametrize("neurons", inputs.NEURONS)
@pytest.mark.parametrize("rows", [0, 1, 4097])
def test_bits_of_rows(neurons: int, rows: int) -> None:
    fires = inputs.bits(rows, neurons)
    shape = StripShape.of(neurons)
    order = an_order(neurons).numpy()

    def words(fires: np.ndarray) -> np.ndarray:
        flat = np.zeros((rows, 32 * shape.strips * shape.strip_words), dtype=bool)
        flat[:, :neurons] = fires
        packed = reference.pack(flat).reshape(rows, shape.strips, shape.strip_words)
        return packed.transpose(1, 0, 2)

    found = bits_by_neuron(words(fires[:, order]), order, shape)
    np.testing.assert_array_equal(found, words(fires))
    # Also with rows that lie apart, as those of a micro-batch in a layer's mask.
    if rows > 1:
        found = bits_by_neuron(words(fires[:, order])[:, ::2], order, shape)
        np.testing.assert_array_equal(found, words(fires)[:, ::2])


def test_an_order_of_other_neurons_is_refused() -> None:
    order = an_order(40)
    with pytest.raises(ShapeError, match="an order of 40 neurons for 41"):
        ordered_weights(order, torch.zeros(41, 3), None, torch.zeros(3, 41))
    with pytest.raises(ShapeError, match="an order of 40 neurons for 33"):
        ordered_weights(order, torch.zeros(40, 3), None, torch.zeros(3, 33))
    with pytest.raises(ShapeError, match="an order of 40 neurons for 39"):
        counters_by_neuron({"fires": np.zeros((2, 39))}, order.numpy())
    with pytest.raises(ShapeError, match="an order of 40 neurons for 65"):
        bits_by_neuron(np.zeros((1, 5, 3), np.uint32), order.numpy(), StripShape.of(65))
    with pytest.raises(ShapeError, match=r"bits of shape \[1, 5, 3\] are not those of"):
        bits_by_neuron(np.zeros((1, 5, 3), np.uint32), order.numpy(), StripShape.of(40))


# --- how many tiles it spares: bench/neuron_order.py --------------------------------------------------


def test_tiles_are_counted_as_by_loops() -> None:
    generator = np.random.default_rng(0)
    fires = generator.random((300, 150)) < 0.0002
    live = live_tiles(firing_blocks(fires))
    assert live.shape == (3, 3)
    for block in range(3):
        for tile in range(3):
            part = fires[128 * block : 128 * (block + 1), 64 * tile : 64 * (tile + 1)]
            assert live[block, tile] == part.any()
    assert 0 < live.sum() < 9


def test_the_expected_share_of_live_tiles_is_that_of_drawn_ones() -> None:
    generator = np.random.default_rng(0)
    rates = np.concatenate([np.zeros(64), np.full(64, 1e-4), np.full(63, 1e-5), [1e-3]])
    drawn = live_tiles(firing_blocks(generator.random((128 * 2000, 192)) < rates))
    assert drawn[:, 0].sum() == 0
    assert expected_live_share(rates) == pytest.approx(drawn.mean(), abs=0.02)


@pytest.mark.parametrize(("mean", "union"), [(0.019, 0.33), (0.137, 0.936), (0.05, 0.999)])
def test_spread_rates_have_the_mean_and_the_union(mean: float, union: float) -> None:
    rates = spread_rates(5000, mean, union)
    assert (np.diff(rates) >= 0).all()
    assert rates.mean() == pytest.approx(mean, rel=0.05)
    assert (1 - (1 - rates) ** 128).mean() == pytest.approx(union, abs=0.01)
