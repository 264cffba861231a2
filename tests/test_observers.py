"""Parts of the observers against slow, obvious programs; the whole is in test_end_to_end."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import checkpoints
from pyneurons import _core, corpus, reference
from pyneurons.corpus import ngram_index
from pyneurons.covering import covering_number, exact_share
from pyneurons.errors import InputError
from pyneurons.model import opt
from pyneurons.model.checkpoint import read_config
from pyneurons.observers import firing, ngram, suppression, weights
from pyneurons.observers.firing import EXAMPLES, FiringObserver
from pyneurons.observers.position import PositionObserver
from pyneurons.observers.row_keys import RowKeys

if TYPE_CHECKING:
    from pathlib import Path


def made_up_counts(seed: int, neurons: int) -> list[list[int]]:
    """Counts of each neuron's n-grams; some neurons have none."""
    generator = np.random.default_rng(seed)
    return [
        sorted(generator.zipf(1.5, size=int(size)).clip(1, 400).tolist())
        for size in generator.integers(0, 60, size=neurons)
    ]


def rows_of(counts: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = [np.unique(own, return_counts=True) for own in counts]
    offsets = np.concatenate([[0], np.cumsum([len(c) for c, _ in count])]).astype(np.int64)
    return (
        offsets,
        np.concatenate([c for c, _ in count]).astype(np.int64),
        np.concatenate([n for _, n in count]).astype(np.int64),
    )


@pytest.mark.parametrize("share", [Fraction(19, 20), Fraction(1, 2), Fraction(1), Fraction(1, 3)])
def test_covering_number_is_that_of_a_loop(share: Fraction) -> None:
    counts = made_up_counts(1, 200)
    offsets, count, number = rows_of(counts)
    total = np.array([sum(own) for own in counts], dtype=np.int64)
    expected = []
    for own in counts:
        held = taken = 0
        for c in reversed(own):
            if Fraction(held) >= share * sum(own):
                break
            held, taken = held + c, taken + 1
        expected.append(taken)
    found = covering_number(offsets, count, number, total, share)
    np.testing.assert_array_equal(found, expected)


def test_covering_number_where_a_float_share_is_wrong() -> None:
    """19 of 20 fires are exactly 95 %: one n-gram covers; as floats .95 * 20 may exceed 19."""
    for scale in (1, 10**6, 2**40):
        count = np.array([scale, 19 * scale], dtype=np.int64)
        offsets, number = np.array([0, 2]), np.array([1, 1])
        total = np.array([20 * scale])
        assert covering_number(offsets, count, number, total).tolist() == [1]
        assert covering_number(offsets, count, number, total + 1).tolist() == [2]


def test_shares_are_exact() -> None:
    assert exact_share(0.95) == Fraction(19, 20) == exact_share("0.95") == exact_share("19/20")
    for wrong in (0, -1, 1.01, "x", float("nan")):
        with pytest.raises(InputError):
            exact_share(wrong)


@pytest.mark.parametrize(("look_cost", "at_hand"), [(0, 4000), (1, 4000), (10**9, 4000), (0, 1)])
def test_what_is_listed_is_that_of_a_loop(
    look_cost: int, at_hand: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram, "_LOOK_COST", look_cost)
    counts = made_up_counts(2, 150)
    complete = np.arange(150) % 3 == 0
    wanted = ngram._wanted(*rows_of(counts), complete, 100, at_hand)
    for f, own in enumerate(counts):
        threshold, listed, ties = wanted.threshold[f], wanted.listed[f], wanted.ties[f]
        if not own:
            assert (listed, ties) == (0, 0)
        elif complete[f]:
            assert (threshold, listed, ties) == (1, len(own), 0)
        else:
            least = sorted(own, reverse=True)[: ngram.TOP][-1]
            assert (threshold, listed) == (
                least + (ties > 0),
                sum(c >= threshold for c in own),
            )
            assert ties == 0 or ties == ngram.TOP - listed
            assert ties + listed >= min(ngram.TOP, len(own))
    assert (wanted.ties > 0).any() == (look_cost < 10**9 and at_hand > 1)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("at_a_time", "most_rows"), [(1, 50), (7, 0), (512, 100), (4000, 4000)])
def test_ties_are_found_in_the_order_of_ids(
    n: int, at_a_time: int, most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether equal counts are all listed or looked for, the same 20 n-grams remain."""
    generator = np.random.default_rng(n)
    ids = np.minimum(generator.zipf(1.5, size=3000) + 2, 90)
    made = corpus.read(ids, None, context=40, vocab_size=100)
    fires = generator.random((made.tokens, 70)) < np.linspace(0, 0.9, 70)
    mask = reference.pack(fires)
    # Beyond those at hand as well, of which there may be none.
    monkeypatch.setattr(ngram, "_SURE", 0)
    monkeypatch.setattr(ngram, "_LOOK_NGRAMS", at_a_time)
    monkeypatch.setattr(ngram, "_LOOK_ROWS", most_rows)
    observer = ngram.NgramObserver.build(made, ngram_index.build(made, n), list_limit=3)
    found = []
    for look_cost in (10**9, 0):
        monkeypatch.setattr(ngram, "_LOOK_COST", look_cost)
        counted = observer.observe(mask, fires.sum(axis=0), backend=None, threads=1)
        found.append(counted.rows)
    assert found[0]["neuron"].size > 70
    for name, column in found[0].items():
        np.testing.assert_array_equal(found[1][name], column, err_msg=name)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("context", [2, 40, 1300])
def test_positions_are_those_of_a_sum(context: int, threads: int) -> None:
    """Also where a thread counts its positions in several parts."""
    generator = np.random.default_rng(context)
    made = corpus.read(
        generator.integers(3, 90, size=6 * context + 1), None, context=context, vocab_size=100
    )
    fires = generator.random((made.tokens, 33)) < np.linspace(0, 1, 33)
    observer = PositionObserver.build(made)
    found = observer.observe(reference.pack(fires), 33, backend=None, threads=threads)
    rows = made.starts[np.flatnonzero(made.full)][:, None] + np.arange(context)
    np.testing.assert_array_equal(found["position_fires"], fires[rows].sum(axis=0)[None])


@pytest.mark.parametrize("rows_a_fire", [1, 10, 20, 40, 100, 1000])
def test_rows_of_neurons_that_fire_seldom(
    rows_a_fire: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neuron f fires f times: the first fire, and the first 16 fires in the order of keys.

    From those that are at most so frequent all rows are found, from the others 16.
    """
    monkeypatch.setattr(firing, "_ROWS_A_FIRE", rows_a_fire)
    generator = np.random.default_rng(0)
    made = corpus.read(generator.integers(3, 90, size=400), None, context=40, vocab_size=100)
    fires = np.zeros((made.tokens, 40), dtype=np.bool_)
    for f in range(40):
        fires[generator.choice(made.tokens, f, replace=False), f] = True
    observer = FiringObserver.build(made)
    found = observer.observe(reference.pack(fires), 40, backend=None, threads=1)
    order = RowKeys.of(made).order()
    for f in range(40):
        examples = order[fires[order, f]][:EXAMPLES].tolist()
        assert found["first_fire"][f] == (np.flatnonzero(fires[:, f])[0] if f else -1)
        assert found["examples"][:, f].tolist() == examples + [-1] * (EXAMPLES - len(examples))


@pytest.mark.parametrize("large", [1, 2**40])
def test_order_of_lists(large: int) -> None:
    generator = np.random.default_rng(0)
    neuron, fires, rank = (generator.integers(0, top, 500) for top in (9, 6, 1000))
    order = ngram._order(neuron * large, fires * large, rank)
    expected = sorted(zip(neuron, -fires, rank, strict=True))
    assert list(zip(neuron[order], -fires[order], rank[order], strict=True)) == expected


@pytest.mark.parametrize("seed", range(5))
def test_the_histogram_is_as_small_as_it_can_be(seed: int) -> None:
    occurrences, number = np.unique(
        np.random.default_rng(seed).zipf(1.4, size=3000).clip(1, 5000), return_counts=True
    )

    def size(bins: int) -> int:
        return bins + int(number[occurrences > bins].sum())

    best = min(size(bins) for bins in range(1, 5001))
    assert size(ngram.choose_bins(occurrences, number)) == best
    assert ngram.choose_bins(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)) == 1


def test_dense_rows_join_the_histogram() -> None:
    histogram = np.zeros((4, 2), dtype=np.int64)
    histogram[1, 0], histogram[3, 0], histogram[2, 1] = 5, 1, 7
    large = np.array([[3, 0], [9, 0], [9, 4]])
    offsets, count, number = _core.histogram_entries(histogram, large, 1)
    assert offsets.tolist() == [0, 3, 5]
    assert count.tolist() == [1, 3, 9, 2, 4]
    assert number.tolist() == [5, 2, 2, 7, 1]


@pytest.mark.parametrize("neurons", [0, 1, 31, 32, 33, 100])
@pytest.mark.parametrize(("bins", "n_large"), [(1, 0), (1, 9), (7, 5), (40, 60)])
def test_histogram_entries_are_those_of_a_loop(neurons: int, bins: int, n_large: int) -> None:
    generator = np.random.default_rng(neurons)
    histogram = np.maximum(generator.integers(-3, 4, (bins + 1, neurons)), 0)
    large = np.maximum(generator.integers(-9, 2 * bins + 2, (n_large, neurons)), 0)
    held: list[list[tuple[int, int]]] = []
    for f in range(neurons):
        own = Counter(large[large[:, f] > 0, f].tolist())
        for c in range(1, bins + 1):
            own[c] += int(histogram[c, f])
        held.append(sorted((c, k) for c, k in own.items() if k > 0))
    for threads in (1, 2, 5):
        offsets, count, number = _core.histogram_entries(histogram, large, threads)
        assert offsets.tolist() == [0, *np.cumsum([len(own) for own in held])]
        assert list(zip(count.tolist(), number.tolist(), strict=True)) == [*chain(*held)]


def test_histogram_entries_refuse_what_does_not_fit() -> None:
    plain = np.zeros((3, 4), dtype=np.int64)
    for wrong in (plain[:, :3], plain.astype(np.int32), plain[0]):
        with pytest.raises((ValueError, TypeError), match="histogram_entries: large"):
            _core.histogram_entries(plain, wrong, 1)
    with pytest.raises(ValueError, match="threads"):
        _core.histogram_entries(plain, plain, 0)


def test_the_order_of_rows_is_a_permutation_that_the_text_decides() -> None:
    generator = np.random.default_rng(0)
    documents = [generator.integers(3, 9, size=n).tolist() for n in (1, 1, 1, 7, 300, 40)]
    documents += documents[-2:]
    made = corpus.read(documents, None, context=16, vocab_size=10, packing="document")
    keys = RowKeys.of(made)
    order = keys.order()
    assert sorted(order.tolist()) == list(range(made.tokens))
    assert np.corrcoef(order, np.arange(made.tokens))[0, 1] ** 2 < 0.02
    every = keys.of_rows(np.arange(made.tokens))
    assert np.array_equal(np.argsort(every), order)
    assert np.unique(every).size == made.tokens, "equal sequences have keys of their own"
    # The same sequences in another order: the same rows come first.
    turned = corpus.read(documents[::-1], None, context=16, vocab_size=10, packing="document")
    of_turned = RowKeys.of(turned).of_rows(np.arange(turned.tokens))
    assert np.array_equal(np.sort(of_turned), np.sort(every))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("mode", ["float32", "bfloat16"])
def test_bounds_on_both_sides(affine: bool, mode: str) -> None:
    """Three margins below 0 nothing fires; three above, x = t * P(w * gamma) does."""
    torch.manual_seed(0)
    hidden, neurons = 48, 60
    weight = torch.randn(neurons, hidden)
    gain = 1 + 0.3 * torch.randn(hidden) if affine else None
    shift = 0.2 * torch.randn(hidden) if affine else None
    plain = weights.bounds(weight, torch.zeros(neurons), gain, shift, mode)
    sign = np.where(np.arange(neurons) % 2, 3.0, -3.0)
    aimed = -plain["z_sup"] + sign * plain["margin"]
    bias = torch.from_numpy(aimed).float()
    found = weights.bounds(weight, bias, gain, shift, mode)
    np.testing.assert_array_equal(found["provably_dead"], sign < 0)
    scaled = weight.double() * (1 if gain is None else gain.double())
    best = scaled - scaled.mean(dim=1, keepdim=True)
    directions = torch.cat([torch.randn(400, hidden, dtype=torch.float64), 1e6 * best])
    y = torch.nn.functional.layer_norm(directions, (hidden,), eps=1e-5)
    x = y if gain is None or shift is None else y * gain.double() + shift.double()
    z = x @ weight.double().T + bias.double()
    assert (z[:, sign < 0] <= 0).all()
    assert (z[400:].diagonal()[sign > 0] > 0).all()
    assert (z.max(dim=0).values.numpy() <= found["z_sup"] + found["margin"]).all()
    assert (z.min(dim=0).values.numpy() >= found["z_inf"] - found["margin"]).all()


def test_baselines() -> None:
    generator = np.random.default_rng(3)
    counts = generator.zipf(1.3, size=500).clip(0, 3000)
    counts[:4] = 0
    allowed = np.arange(4, 480)
    ids = generator.integers(4, 480, size=5000)
    ids[::7] = 2
    made = suppression.Baselines.build(ids, counts, allowed, 2)
    again = suppression.Baselines.build(ids, counts, allowed, 2)
    for name in ("column_of", "drawn", "by_count", "place", "count"):
        np.testing.assert_array_equal(getattr(made, name), getattr(again, name))
    np.testing.assert_array_equal(made.column_of[allowed], np.arange(allowed.size))
    assert (np.delete(made.column_of, allowed) == -1).all()
    drawn = allowed[made.drawn]
    assert suppression.RANDOM_TOKENS < drawn.size <= 4 * suppression.RANDOM_TOKENS
    assert not (drawn == 2).any()
    np.testing.assert_array_equal(np.sort(made.by_count), np.arange(allowed.size))
    np.testing.assert_array_equal(made.by_count[made.place], np.arange(allowed.size))
    np.testing.assert_array_equal(made.count, counts[allowed])
    assert (np.diff(made.count[made.by_count]) >= 0).all()


@pytest.mark.parametrize("variant", ["pre", "post", "no_affine"])
@pytest.mark.parametrize("mode", ["float32", "bfloat16"])
def test_the_bound_is_reached_in_a_layer_and_never_passed(
    tmp_path: Path, variant: str, mode: str
) -> None:
    """x = t * P(w * gamma) fires the neuron three margins above its bound; nothing the one below.

    With out_proj at 0 attention adds nothing, so the LayerNorm that fc1 reads sees x itself.
    """
    hidden_size, neurons = 32, 96
    model = checkpoints.build(variant, seed=7)
    layer = model.model.decoder.layers[0]
    raw = {name: tensor.detach() for name, tensor in layer.state_dict().items()}
    for name, tensor in raw.items():
        if "out_proj" in name:
            tensor.zero_()
    model.config.save_pretrained(tmp_path)
    config = read_config(tmp_path / "config.json")
    weight, bias, gain, shift = opt.fc1_and_its_norm(raw, config)
    assert bias is not None
    raw["fc1.weight"] = weight = weight.to(getattr(torch, mode)).float()
    sign = np.where(np.arange(neurons) % 2, 3.0, -3.0)
    plain = weights.bounds(weight, torch.zeros(neurons), gain, shift, mode)
    raw["fc1.bias"] = torch.from_numpy(-plain["z_sup"] + sign * plain["margin"]).float()
    found = weights.bounds(*opt.fc1_and_its_norm(raw, config), mode)
    np.testing.assert_array_equal(found["provably_dead"], sign < 0)

    scaled = weight if gain is None else weight * gain
    best = 1e4 * (scaled - scaled.mean(dim=1, keepdim=True))
    rows = torch.cat([best, -best, torch.randn(64, hidden_size)])
    mask = np.zeros((1, rows.shape[0], 3), dtype=np.uint32)
    opt.decoder_layer(
        rows.clone(),
        [1] * rows.shape[0],
        opt.convert_layer(raw, config, getattr(torch, mode)),
        mask,
        torch.full((neurons,), -torch.inf),
        last=True,
    )
    bits = np.unpackbits(mask[0].view(np.uint8), axis=1, bitorder="little").astype(bool)
    assert not bits[:, sign < 0].any()
    assert bits[:neurons].diagonal()[sign > 0].all()
