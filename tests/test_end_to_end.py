"""The whole program against the one a careful user would write (tests/helpers/naive.py).

Step one compares bits with transformers' own ``fc1``: equal wherever |z| > 1e-4. Step two counts
over the scan's own bits, so that not one neuron and not one number is exempt.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import checkpoints
import constructed
import pyneurons
import pyneurons.errors
from naive import (
    Detector,
    Statistics,
    covering_number,
    load,
    naive_bounds,
    naive_ensemble,
    naive_ngrams,
    naive_preactivations,
    naive_statistics,
    naive_type,
    split,
)

BAND = 1e-4
"""Nearer to 0 than this, two correct float32 programs may disagree about the sign."""

MOST_INSIDE = 5e-4
"""Share of cells in the band. One neuron near 0 at BOS is as many cells as there are sequences."""

ORDERS = (1, 2, 3)

KEPT_LISTS = 200
"""Neurons whose covering number is at most so much keep their n-grams."""

SWEEPS: list[dict[str, Any]] = [
    {"n": 1, "K": 3, "coverage": 0.9, "precision": 0.8, "min_count": 2},
    {"n": 1, "K": 20, "coverage": 0.95, "precision": 0.5},
    {"n": 2, "K": 10, "coverage": 0.99, "min_count": 3},
    {"n": 3, "K": 50, "coverage": 0.5, "precision": 1.0, "min_count": 2},
]


@dataclass
class Case:
    """A scan, what it ran on, and what transformers says."""

    scan: Any
    directory: Path
    ids: Any
    starts: Any
    owner: Any
    context: int

    def padded(self) -> Any:
        """Return the sequences as rows of a file, ids of padding behind the short ones."""
        padded = np.ones((len(self.starts) - 1, self.context), dtype=np.int32)
        for row, sequence in zip(padded, split(self.ids, self.starts), strict=True):
            row[: len(sequence)] = sequence
        return padded


# ----- the oracle itself, by hand ----------------------------------------------------------------


def test_the_oracle_on_an_example_counted_by_hand() -> None:
    # Two sequences of 6 and 5; ids 7 8 7 8 end to end, a separator in the second.
    ids = [2, 7, 8, 7, 8, 9, 2, 7, 8, 2, 8]
    fires = [1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0]
    never = [0] * 11
    bits = np.array([fires, never, [1] * 11], dtype=bool).T
    one = naive_statistics(bits, ids, [0, 6, 11], [0, 1], ("a", "b"), 6)
    assert one.fires.tolist() == [6, 0, 11]
    assert one.bos_fires.tolist() == [1, 0, 2]
    assert one.separator_fires.tolist() == [1, 0, 1]
    assert {name: fires.tolist() for name, fires in one.domain_fires.items()} == {
        "a": [4, 0, 6],
        "b": [2, 0, 5],
    }
    assert one.first_fire.tolist() == [0, -1, 0]
    assert one.position_fires[None].tolist() == [[1, 0, 1, 0, 1, 1], [0] * 6, [1] * 6]
    assert one.full_sequences == {None: 1, "a": 1, "b": 0}
    assert one.mi[None] == pytest.approx([entropy(4 / 6), 0, 0], abs=1e-15)

    tokens = one.ngrams[1]
    assert tokens.ngrams.tokens == [(7,), (8,), (9,)]
    assert tokens.ngrams.occurrences.tolist() == [3, 4, 1]
    assert tokens.fires.tolist() == [4, 0, 8]  # on 8, 8, 9 and 8 again
    assert tokens.histogram == [{3: 1, 1: 1}, {}, {3: 1, 4: 1, 1: 1}]
    assert tokens.covering.tolist() == [2, 0, 3]
    assert sorted(tokens.detectors()) == [2]  # 8 is missed once in four
    loose = tokens.detectors(largest=2, precision=Fraction(3, 4))
    assert loose[0].covered == [(8,), (9,)]
    assert (loose[0].covering, loose[0].coverage, loose[0].min_occurrences) == (2, 1.0, 1)
    assert loose[0].support == 0

    pairs = one.ngrams[2]
    assert pairs.ngrams.tokens == [(7, 8), (8, 7), (8, 9)]  # none reaches over the separator
    assert pairs.ngrams.occurrences.tolist() == [3, 1, 1]
    assert pairs.ngrams.positions == 5
    assert pairs.fires.tolist() == [4, 0, 5]
    assert pairs.detectors()[0].covered == [(7, 8), (8, 9)]
    assert one.ngrams[3].ngrams.tokens == [(7, 8, 7), (7, 8, 9), (8, 7, 8)]


def entropy(share: float) -> float:
    """Return the mutual information of a neuron that fires at so many positions, always there."""
    return -share * math.log(share) - (1 - share) * math.log(1 - share)


def test_the_oracle_takes_shares_exactly() -> None:
    held_by = np.array([19, 20])
    assert covering_number(held_by, 20, Fraction(19, 20)) == 1
    assert covering_number(held_by, 20, Fraction(951, 1000)) == 2


@pytest.mark.parametrize(
    ("curve", "kind"),
    [
        ([0, 0] + [10] * 30 + [0] * 32, ("both", "strong")),
        ([10] + [0] * 63, ("one", "strong")),
        ([0] + [10] * 40 + [5] * 23, ("one", "strong")),
        ([0] + ([10] * 10 + [0] * 10) * 3 + [5] * 3, ("oscillatory", "strong")),
        ([0] + [2] * 30 + [8] * 33, ("other", None)),  # no interval, so no strength
    ],
)
def test_the_oracle_on_made_curves(curve: list[int], kind: tuple[str, str | None]) -> None:
    assert naive_type(np.array(curve), 10) == kind


# ----- tiny checkpoints --------------------------------------------------------------------------


def documents(seed: int, number: int, vocabulary: int) -> list[list[int]]:
    """Documents of 1 to 90 ids, a few ids in most places as in a text, no id below 4."""
    generator = np.random.default_rng(seed)
    chance = 1 / np.arange(1, vocabulary - 3)
    words = 4 + generator.permutation(vocabulary - 4)
    return [
        generator.choice(words, size=int(length), p=chance / chance.sum()).tolist()
        for length in generator.integers(1, 91, size=number)
    ]


def write_eventful(directory: Path, variant: str) -> None:
    """Write a random checkpoint with dead and rare neurons, and some that follow a few tokens."""
    model = checkpoints.build(variant, seed=11)
    decoder = model.model.decoder
    generator = torch.Generator().manual_seed(12)
    with torch.no_grad():
        decoder.embed_positions.weight.mul_(0.25)
        embedding = decoder.embed_tokens.weight
        if decoder.project_in is not None:
            embedding = decoder.project_in(embedding)
        for layer in decoder.layers:
            if layer.fc1.bias is not None:
                noise = torch.randn(layer.fc1.bias.shape, generator=generator)
                layer.fc1.bias.sub_(1.2 + 0.8 * noise)
                for neuron in range(20, 50):
                    tokens = torch.randint(
                        4, len(embedding), (1 + neuron % 3,), generator=generator
                    )
                    layer.fc1.weight[neuron] = embedding[tokens].sum(dim=0) / embedding.shape[1]
                    layer.fc1.bias[neuron] = -0.3 - 0.02 * (neuron - 20)
            layer.fc1.weight[7].zero_()  # z is the bias alone
        if decoder.layers[0].fc1.bias is not None:
            decoder.layers[0].fc1.bias[7] = 0.0  # z is 0: the edge itself
    checkpoints.write_model(model, directory)


FORMS = {"pre": "document", "350m": "document", "no_affine": "rows", "odd": "rows"}
"""How the corpus comes, by variant; the others are packed."""


@pytest.fixture(scope="module", params=[*checkpoints.VARIANTS, "constructed"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Scan one tiny checkpoint."""
    variant = request.param
    directory = tmp_path_factory.mktemp(variant)
    corpus: dict[str, Any]
    vocabulary = checkpoints.BASE["vocab_size"]
    form = FORMS.get(variant, "pack")
    options: dict[str, Any] = {"context": 24, "packing": form}
    if variant == "constructed":
        constructed.make(directory)
        corpus = saved(directory, constructed.corpus())
        options = {"context": constructed.CONTEXT}
    else:
        write_eventful(directory, variant)
        corpus = {"one": documents(1, 80, vocabulary), "other": documents(2, 50, vocabulary)}
        if form == "rows":
            made = {"one": rows(1, 150, vocabulary, 24), "other": rows(2, 90, vocabulary, 24)}
            corpus = saved(directory, made)
    scan = pyneurons.scan(
        directory, corpus, dtype="float32", keep_bits=True, progress=False, **options
    )
    ids, starts, owner = rows_of(scan)
    ran = [sequence.tolist() for sequence in split(ids, starts)]
    if form == "document":
        assert ran == [row for part in corpus.values() for row in by_document(part, 24)]
    if form == "rows":
        assert ran == [row for part in corpus.values() for row in trimmed(np.load(part))]
    if form == "pack" and variant != "constructed":
        in_order = [
            [i for i in np.concatenate(split(ids, starts)[first:last]).tolist() if i != 2]
            for first, last in itertools.pairwise(np.searchsorted(owner, [0, 1, 2]))
        ]
        assert in_order == [[i for text in part for i in text] for part in corpus.values()]
    return Case(scan, directory, ids, starts, owner, options["context"])


def saved(directory: Path, domains: dict[str, Any]) -> dict[str, Path]:
    """Write one .npy per domain."""
    paths = {name: directory / f"{name}.npy" for name in domains}
    for name, path in paths.items():
        np.save(path, domains[name])
    return paths


def rows(seed: int, number: int, vocabulary: int, context: int) -> Any:
    """Sequences as a file holds them: BOS, ids, now and then a separator, padding at the end."""
    generator = np.random.default_rng(seed)
    chance = 1 / np.arange(1, vocabulary - 3)
    words = 4 + generator.permutation(vocabulary - 4)
    ids = generator.choice(words, size=(number, context), p=chance / chance.sum())
    ids[generator.random(ids.shape) < 0.03] = 2
    ids[:, 0] = 2
    for row in range(0, number, 7):
        ids[row, int(generator.integers(1, context)) :] = 1
    return ids.astype(np.int32)


def by_document(parts: list[list[int]], context: int) -> list[list[int]]:
    """Each document its own sequence or sequences, BOS in front of each."""
    size = context - 1
    return [[2, *part[at : at + size]] for part in parts for at in range(0, len(part), size)]


def trimmed(ids: Any) -> list[list[int]]:
    """Rows without the padding at their end."""
    return [row[: int(np.flatnonzero(row != 1)[-1]) + 1].tolist() for row in ids]


def rows_of(scan: Any) -> tuple[Any, Any, Any]:
    """Return the ids as they were run, where sequences start, and the domain of each."""
    ids, starts = np.asarray(scan.ids), np.asarray(scan.starts)
    sizes = list(scan.domain_tokens.values())
    ends = np.cumsum(sizes)
    owner = np.searchsorted(ends, starts[:-1], side="right")
    return ids, starts, owner


def test_every_bit_is_that_of_transformers(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    compared, inside, extremes = 0, 0, []
    pres = naive_preactivations(case.directory, split(case.ids, case.starts))
    assert len(pres) == len(case.scan.layers)
    for layer, pre in enumerate(pres):
        bits = case.scan.bits(layer)
        assert bits.dtype == np.bool_
        assert bits.shape == pre.shape
        clear = np.abs(pre) > BAND
        np.testing.assert_array_equal(bits[clear], (pre > 0)[clear])
        compared += clear.size
        inside += int((~clear & (pre != 0)).sum())
        exact = pre == 0  # a neuron without weights: zero in every program
        assert not bits[exact].any()
        extremes.append(pre.max(axis=0))
    with capsys.disabled():
        report(f"{case.directory.name}: {compared} cells compared, {inside} nearer than {BAND}")
    assert inside <= MOST_INSIDE * compared
    np.testing.assert_allclose(case.scan.z_max, np.array(extremes), rtol=0, atol=BAND)
    np.testing.assert_array_equal(case.scan.fires > 0, case.scan.z_max > 0)


def report(line: str) -> None:
    """Print one line."""
    print(f"\n  {line}", end="")


def test_every_count_is_that_of_the_bits(case: Case) -> None:
    same_counts(case)


def test_bounds_of_every_neuron(case: Case) -> None:
    scan = case.scan
    for row, bounds in enumerate(naive_bounds(case.directory)):
        for name in ("z_sup", "z_inf"):
            np.testing.assert_allclose(
                getattr(scan, name)[row], bounds[name], rtol=1e-9, atol=1e-9, err_msg=name
            )
        dead = bounds["z_sup"] + bounds["margin"] <= 0
        on = bounds["z_inf"] - bounds["margin"] > 0
        np.testing.assert_array_equal(scan.provably_dead[row], dead)
        np.testing.assert_array_equal(scan.provably_on[row], on)
        assert not (dead & (scan.fires[row] > 0)).any()
        assert (scan.fires[row][on] == scan.tokens).all()


def test_a_scan_of_some_layers_speaks_in_absolute_ids(case: Case) -> None:
    last = case.scan.layers[-1]
    alone = pyneurons.scan(
        case.directory,
        saved(case.directory, {"all": case.padded()})["all"],
        dtype="float32",
        layers=[last],
        keep_bits=True,
        progress=False,
    )
    assert list(alone.layers) == [last]
    assert alone.fires.shape == (1, case.scan.fires.shape[1])
    np.testing.assert_array_equal(alone.ids, case.ids)
    np.testing.assert_array_equal(alone.bits(last), case.scan.bits(last))
    np.testing.assert_array_equal(alone.fires[0], case.scan.fires[-1])
    np.testing.assert_array_equal(alone.position_fires(last), case.scan.position_fires(last))
    for n in ORDERS:
        rows = [row for row in case.scan.detectors(n=n).to_pylist() if row["layer"] == last]
        assert alone.detectors(n=n).to_pylist() == rows


# ----- the demo model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> Case:
    """Scan a part of the demo corpus with the demo model."""
    return demo_case(max_tokens=18_000)


def demo_case(**options: Any) -> Case:
    scan = pyneurons.scan(
        "demo", "demo", dtype="float32", keep_bits=True, progress=False, **options
    )
    directory = Path(pyneurons.__file__).parent / "demo" / "model"
    ids, starts, owner = rows_of(scan)
    return Case(scan, directory, ids, starts, owner, int(np.diff(starts).max()))


def same_bits(case: Case) -> tuple[int, int]:
    """Compare in pieces of 32 sequences: all pre-activations at once would be gigabytes."""
    model = load(case.directory)
    compared = inside = 0
    bits = [case.scan.bits(layer) for layer in case.scan.layers]
    extremes = np.full(case.scan.z_max.shape, -np.inf, dtype=np.float32)
    sequences = split(case.ids, case.starts)
    at = 0
    for first in range(0, len(sequences), 32):
        pres = naive_preactivations(model, sequences[first : first + 32])
        for layer, pre in enumerate(pres):
            clear = np.abs(pre) > BAND
            own = bits[layer][at : at + len(pre)]
            np.testing.assert_array_equal(own[clear], (pre > 0)[clear])
            compared += clear.size
            inside += int((~clear).sum())
            extremes[layer] = np.maximum(extremes[layer], pre.max(axis=0))
        at += len(pres[0])
    assert at == case.scan.tokens
    np.testing.assert_allclose(case.scan.z_max, extremes, rtol=0, atol=BAND)
    np.testing.assert_array_equal(case.scan.fires > 0, case.scan.z_max > 0)
    return compared, inside


def test_demo_bits(demo: Case, capsys: pytest.CaptureFixture[str]) -> None:
    compared, inside = same_bits(demo)
    with capsys.disabled():
        report(f"demo: {compared} cells compared, {inside} nearer than {BAND}")
    assert inside <= MOST_INSIDE * compared


def test_demo_counts(demo: Case) -> None:
    same_counts(demo)


@pytest.mark.slow
def test_the_whole_demo(capsys: pytest.CaptureFixture[str]) -> None:
    case = demo_case()
    compared, inside = same_bits(case)
    with capsys.disabled():
        report(f"whole demo: {compared} cells compared, {inside} nearer than {BAND}")
    assert inside <= MOST_INSIDE * compared
    same_counts(case)
    # The demo has something to show.
    assert case.scan.dead.sum() >= 100
    assert len(case.scan.detectors(n=1)) >= 5
    assert len(case.scan.positional()) >= 10


# ----- comparing ---------------------------------------------------------------------------------


def same_counts(case: Case) -> None:
    """Count over the scan's own bits, layer by layer, and compare arrays, then tables."""
    scan = case.scan
    shared = {n: naive_ngrams(case.ids, case.starts, n) for n in ORDERS}
    detectors: dict[int, list[dict[int, Detector]]] = {n: [] for n in ORDERS}
    swept: list[list[dict[int, Detector]]] = [[] for _ in SWEEPS]
    not_kept = [0 for _ in SWEEPS]
    positional: dict[tuple[int, int], dict[str, Any]] = {}
    for row, layer in enumerate(scan.layers):
        expected = naive_statistics(
            scan.bits(layer),
            case.ids,
            case.starts,
            case.owner,
            tuple(scan.domain_tokens),
            case.context,
            ngrams=shared,
        )
        same_layer(scan, row, layer, expected)
        for n in ORDERS:
            detectors[n].append(expected.ngrams[n].detectors())
        for number, sweep in enumerate(SWEEPS):
            found, lost = naive_sweep(expected, **sweep)
            swept[number].append(found)
            not_kept[number] += lost
        if expected.full_sequences[None] >= 50:
            positional |= {
                (layer, neuron): naive_positional(expected, neuron)
                for neuron in expected.positional()
            }
    for n in ORDERS:
        same_detectors(scan, scan.detectors(n=n), detectors[n])
        same_ensemble(scan.detected(n), detectors[n])
    for sweep, expected_rows, lost in zip(SWEEPS, swept, not_kept, strict=True):
        same_sweep(scan, sweep, expected_rows, lost)
    same_positional(scan, positional)


def naive_sweep(
    layer: Statistics,
    n: int,
    K: int,
    coverage: float = 0.95,
    precision: float = 0.95,
    min_count: int = 1,
) -> tuple[dict[int, Detector], int]:
    """Return the detectors at other thresholds, and how many candidates have no kept list."""
    order = layer.ngrams[n]
    share = Fraction(str(coverage))
    found = order.detectors(K, share, Fraction(str(precision)), min_count)
    return found, int(((order.covering > KEPT_LISTS) & (order.covering_at(share) <= K)).sum())


def naive_positional(layer: Statistics, neuron: int) -> dict[str, Any]:
    """Return the columns of one positional neuron."""
    sequences = layer.full_sequences[None]
    return {
        "mi": float(layer.mi[None][neuron]),
        "bias": layer.bias,
        "sequences": sequences,
        "kind": naive_type(layer.position_fires[None][neuron], sequences),
    }


def same_layer(scan: Any, row: int, layer: int, expected: Statistics) -> None:
    """Compare every array of one layer."""
    equal = np.testing.assert_array_equal
    assert scan.tokens == expected.tokens
    assert scan.full_sequences == expected.full_sequences[None]
    equal(scan.fires[row], expected.fires)
    equal(scan.bos_fires[row], expected.bos_fires)
    equal(scan.separator_fires[row], expected.separator_fires)
    assert set(scan.domain_fires) == set(expected.domain_fires)
    for name, fires in expected.domain_fires.items():
        equal(scan.domain_fires[name][row], fires)
    equal(scan.frequency[row], expected.frequency)
    equal(scan.dead[row], expected.dead)
    equal(scan.first_fire[row], expected.first_fire)
    for name, position_fires in expected.position_fires.items():
        equal(scan.position_fires(layer, name), position_fires)
    np.testing.assert_allclose(scan.mi[row], expected.mi[None], rtol=0, atol=1e-12)
    for name, mi in expected.mi.items():
        np.testing.assert_allclose(scan.mi_of(layer, name), mi, rtol=0, atol=1e-12)
    for n, statistics in expected.ngrams.items():
        assert scan.ngram_positions(n) == statistics.ngrams.positions
        equal(scan.ngram_fires(n)[row], statistics.fires)
        equal(scan.coverage(n)[row], statistics.covering)
        equal(scan.coverage(n, 0.5)[row], statistics.covering_at(Fraction(1, 2)))
    for array in (scan.fires, scan.bos_fires, scan.separator_fires, scan.first_fire):
        assert array.dtype == np.int64
        assert array.shape == scan.fires.shape


def same_sweep(
    scan: Any, sweep: dict[str, Any], expected: list[dict[int, Detector]], not_kept: int
) -> None:
    """A sweep is exact; it may be refused where some candidate's list was not kept."""
    try:
        table = scan.detectors(**sweep)
    except pyneurons.errors.InputError:
        assert not_kept > 0, sweep
        return
    same_detectors(scan, table, expected)


def same_detectors(scan: Any, table: Any, expected: list[dict[int, Any]]) -> None:
    """Compare every column of every row; no row too many, none too few."""
    found = {(row["layer"], row["neuron"]): row for row in table.to_pylist()}
    assert len(found) == table.num_rows
    assert sorted(found) == sorted(
        (layer, neuron)
        for layer, rows in zip(scan.layers, expected, strict=True)
        for neuron in rows
    )
    for layer, rows in zip(scan.layers, expected, strict=True):
        for neuron, detector in rows.items():
            row = found[layer, neuron]
            assert sorted(tuple(gram) for gram in row["covered"]) == detector.covered
            for name in ("n", "fires", "ngram_fires", "covering", "min_occurrences", "support"):
                assert row[name] == getattr(detector, name), (layer, neuron, name)
            assert row["coverage"] == pytest.approx(detector.coverage, abs=1e-12)


def same_ensemble(table: Any, expected: list[dict[int, Any]]) -> None:
    """Compare the counts of detected n-grams of each layer."""
    ensemble = naive_ensemble(expected)
    for name, numbers in vars(ensemble).items():
        assert table[name].to_pylist() == numbers, name


def same_positional(scan: Any, expected: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Compare which neurons pass, their numbers, and their type where its definition decides."""
    found = {(row["layer"], row["neuron"]): row for row in scan.positional().to_pylist()}
    assert sorted(found) == sorted(expected)
    for place, one in expected.items():
        row = found[place]
        assert row["mi"] == pytest.approx(one["mi"], abs=1e-12)
        assert row["bias"] == pytest.approx(one["bias"], abs=1e-15)
        assert row["sequences"] == one["sequences"]
        if one["kind"] is not None:
            kind, strength = one["kind"]
            assert row["type"] == kind, place
            if strength is not None:
                assert row["strength"] == strength, place
