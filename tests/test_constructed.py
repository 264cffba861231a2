"""A model whose neurons have known roles (tests/helpers/constructed.py): every role is found.

And nothing else is: a neuron that was not built as a detector, as positional or as provable is
not called one. The first tests read the construction with transformers alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import constructed
import pyneurons
from constructed import Place, Roles
from naive import (
    Statistics,
    naive_bounds,
    naive_ngrams,
    naive_preactivations,
    naive_statistics,
    naive_type,
)

if TYPE_CHECKING:
    from pathlib import Path

ORDERS = (1, 2, 3)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("constructed")


@pytest.fixture(scope="module")
def roles(directory: Path) -> Roles:
    return constructed.make(directory)


@pytest.fixture(scope="module")
def corpus(directory: Path) -> dict[str, Path]:
    return write(directory, constructed.corpus())


@pytest.fixture(scope="module")
def scan(directory: Path, roles: Roles, corpus: dict[str, Path]) -> Any:
    del roles  # has written the checkpoint
    return pyneurons.scan(directory, corpus, dtype="float32", progress=False)


@pytest.fixture(scope="module")
def pres(directory: Path, roles: Roles) -> list[Any]:
    del roles
    return naive_preactivations(directory, sequences(constructed.corpus())[0])


@pytest.fixture(scope="module")
def statistics(pres: list[Any]) -> list[Statistics]:
    parts, owner = sequences(constructed.corpus())
    ids = np.concatenate(parts)
    starts = np.cumsum([0, *map(len, parts)])
    shared = {n: naive_ngrams(ids, starts, n) for n in ORDERS}
    return [
        naive_statistics(
            pre > 0, ids, starts, owner, constructed.DOMAINS, constructed.CONTEXT, ngrams=shared
        )
        for pre in pres
    ]


def write(directory: Path, domains: dict[str, Any]) -> dict[str, Path]:
    """Write one .npy per domain."""
    paths = {name: directory / f"{name}.npy" for name in domains}
    for name, path in paths.items():
        np.save(path, domains[name])
    return paths


def sequences(domains: dict[str, Any]) -> tuple[list[Any], list[int]]:
    """Rows without their padding, and the domain of each."""
    parts = [
        (row[row != constructed.PAD], owner)
        for owner, ids in enumerate(domains.values())
        for row in ids
    ]
    return [part for part, _ in parts], [owner for _, owner in parts]


def places(masks: Any) -> list[Place]:
    """(layer, neuron) where [layers, neurons] is True."""
    return [(int(layer), int(neuron)) for layer, neuron in np.argwhere(np.asarray(masks))]


def rows_by_place(table: Any) -> dict[Place, dict[str, Any]]:
    """Rows of a table by (layer, neuron)."""
    found = {(row["layer"], row["neuron"]): row for row in table.to_pylist()}
    assert len(found) == table.num_rows
    return found


# ----- the construction, without pyneurons -------------------------------------------------------


def test_every_neuron_has_one_place(roles: Roles) -> None:
    told: list[Place] = [
        *roles.dead,
        *roles.always,
        *(place for n in ORDERS for place in roles.detectors[n]),
        *roles.positional,
        *(place for place in roles.outside if place not in roles.positional),
        *roles.near,
        *roles.plain,
    ]
    assert sorted(told) == sorted(
        (layer, neuron)
        for layer in range(constructed.LAYERS)
        for neuron in range(constructed.NEURONS)
    )
    assert sorted(roles.suppressing + roles.promoting) == sorted(roles.detectors[1])


def test_roles_are_far_from_the_edge(pres: list[Any], roles: Roles) -> None:
    edge = [place for place in roles.proven_dead if not pres[place[0]][:, place[1]].any()]
    assert len(edge) == constructed.LAYERS  # weights and bias 0: z is 0 and does not fire
    for layer, neuron in {*everything(roles)} - {*edge}:
        assert np.abs(pres[layer][:, neuron]).min() > 0.02, (layer, neuron)


def everything(roles: Roles) -> list[Place]:
    """Every neuron but the plain ones."""
    return [
        *roles.dead,
        *roles.always,
        *(place for n in ORDERS for place in roles.detectors[n]),
        *roles.positional,
        *roles.outside,
        *roles.near,
    ]


def test_transformers_and_loops_find_the_roles(statistics: list[Statistics], roles: Roles) -> None:
    assert places([one.dead for one in statistics]) == sorted(roles.dead)
    always = [one.fires == one.tokens for one in statistics]
    assert places(always) == sorted(roles.always)
    seen: set[Place] = set()
    for n in ORDERS:
        rows = {
            (layer, neuron): row
            for layer, one in enumerate(statistics)
            for neuron, row in one.ngrams[n].detectors().items()
        }
        new = {place: row.covered for place, row in rows.items() if place not in seen}
        assert new == roles.detectors[n]
        seen |= set(rows)
    kinds = {
        (layer, neuron): naive_type(one.position_fires[None][neuron], one.full_sequences[None])
        for layer, one in enumerate(statistics)
        for neuron in one.positional()
    }
    assert sorted(kinds) == sorted(roles.positional)
    for place, (kind, strength) in roles.positional.items():
        found = kinds[place]
        assert found is not None
        assert found[0] == kind
        assert strength in {None, found[1]}


def test_bounds_prove_the_proven(directory: Path, roles: Roles) -> None:
    bounds = naive_bounds(directory)
    dead = [one["z_sup"] + one["margin"] <= 0 for one in bounds]
    on = [one["z_inf"] - one["margin"] > 0 for one in bounds]
    assert places(dead) == sorted(roles.proven_dead)
    assert places(on) == sorted(roles.proven_on)


# ----- the scan ----------------------------------------------------------------------------------


def test_dead_and_always_on(scan: Any, roles: Roles) -> None:
    assert places(scan.dead) == sorted(roles.dead)
    assert places(scan.fires == scan.tokens) == sorted(roles.always)
    assert places(scan.first_fire == -1) == sorted(roles.dead)
    for place in roles.always:
        assert scan.first_fire[place] == 0


def test_proven(scan: Any, roles: Roles) -> None:
    assert places(scan.provably_dead) == sorted(roles.proven_dead)
    assert places(scan.provably_on) == sorted(roles.proven_on)


def test_a_corpus_with_the_missing_tokens_awakes_the_dead(
    directory: Path, roles: Roles, tmp_path: Path
) -> None:
    rows = constructed.corpus()[constructed.DOMAINS[0]][:10].copy()
    rows[3, 20:24] = constructed.ABSENT
    path = tmp_path / "awake.npy"
    np.save(path, rows)
    again = pyneurons.scan(directory, path, dtype="float32", progress=False)
    for place in roles.awakened:
        assert not again.dead[place]
        assert again.first_fire[place] == 3 * constructed.CONTEXT + 20
    for place in roles.proven_dead:
        assert again.dead[place]


@pytest.mark.parametrize("n", ORDERS)
def test_detectors_by_their_smallest_n(scan: Any, roles: Roles, n: int) -> None:
    lower = {place for m in ORDERS if m < n for place in rows_by_place(scan.detectors(n=m))}
    found = rows_by_place(scan.detectors(n=n))
    grams = {
        place: sorted(tuple(gram) for gram in row["covered"])
        for place, row in found.items()
        if place not in lower
    }
    assert grams == roles.detectors[n]


def test_a_seldom_token_is_covered_but_no_support(scan: Any, roles: Roles) -> None:
    rows = rows_by_place(scan.detectors(n=1))
    with_seldom = [
        place for place, grams in roles.detectors[1].items() if (constructed.SELDOM[0],) in grams
    ]
    assert len(with_seldom) == constructed.LAYERS
    for place in with_seldom:
        row = rows[place]
        assert row["covering"] == 5
        assert len(row["covered"]) == 7
        assert row["min_occurrences"] == 1
        assert row["support"] == row["ngram_fires"] - 5
    without = rows_by_place(scan.detectors(n=1, min_count=5))
    assert sorted(without) == sorted(rows)
    for place in with_seldom:
        assert len(without[place]["covered"]) == 5
        assert without[place]["min_occurrences"] >= 5


def test_positional_neurons_and_their_types(scan: Any, roles: Roles) -> None:
    rows = rows_by_place(scan.positional())
    assert sorted(rows) == sorted(roles.positional)
    for place, (kind, strength) in roles.positional.items():
        assert rows[place]["type"] == kind, place
        if strength is not None:
            assert rows[place]["strength"] == strength, place


def test_too_few_sequences_leave_the_class_open(
    directory: Path, roles: Roles, tmp_path: Path
) -> None:
    path = tmp_path / "few.npy"
    np.save(path, constructed.corpus()[constructed.DOMAINS[0]][:49])
    few = pyneurons.scan(directory, path, dtype="float32", progress=False)
    assert few.full_sequences == 49
    assert few.positional().num_rows == 0
    assert {row["positional"] for row in few.neurons.to_pylist()} == {None}
    for place in roles.positional:
        assert few.mi[place] > 0.05


def test_neurons_of_bos_and_separators_alone(scan: Any, roles: Roles) -> None:
    for place in roles.outside:
        assert scan.fires[place] == scan.bos_fires[place] + scan.separator_fires[place] > 0
        for n in ORDERS:
            assert scan.ngram_fires(n)[place] == 0
            assert scan.coverage(n)[place] == 0


def test_detectors_that_point_away_from_their_triggers(scan: Any, roles: Roles) -> None:
    rows = rows_by_place(scan.suppression())
    assert sorted(rows) == sorted(roles.detectors[1])
    # The update is 0.02 of the embeddings of all triggers, and those are orthogonal.
    score = 0.02 * 2 * constructed.AMPLITUDE**2
    for sign, here in ((-1, roles.suppressing), (1, roles.promoting)):
        for place in here:
            grams = len(roles.detectors[1][place])
            share = grams / constructed.VOCABULARY  # of the vocabulary has this score, the rest 0
            row = rows[place]
            assert row["triggers"] == grams
            assert row["mean"] == pytest.approx(sign * score, rel=1e-6)
            assert row["mean_centred"] == pytest.approx(sign * score * (1 - share), rel=1e-6)
            assert row["negative"] == (grams if sign < 0 else 0)
            for name in ("mean_below", "majority_below", "all_below"):
                assert row[name] == (sign < 0)
    assert len(roles.suppressing) == len(roles.promoting)
    assert set(scan.suppression_shares()["triggers"]) == {0.5}


def test_the_table_of_all_neurons_names_the_roles(scan: Any, roles: Roles) -> None:
    rows = rows_by_place(scan.neurons)
    assert len(rows) == constructed.LAYERS * constructed.NEURONS
    by_role = {place: n for n in ORDERS for place in roles.detectors[n]}
    for place, row in rows.items():
        assert row["role"] == by_role.get(place, 0)
        assert row["dead"] == (place in roles.dead)
        assert row["provably_dead"] == (place in roles.proven_dead)
        assert row["provably_on"] == (place in roles.proven_on)
        assert row["positional"] is (place in roles.positional)
        assert row["positional_type"] == roles.positional.get(place, (None,))[0]


def test_other_numeric_modes_find_the_same_roles(
    directory: Path, roles: Roles, corpus: dict[str, Path]
) -> None:
    rough = pyneurons.scan(directory, corpus, dtype="bfloat16", progress=False)
    assert places(rough.dead) == sorted(roles.dead)
    assert places(rough.fires == rough.tokens) == sorted(roles.always)
    seen: set[Place] = set()
    for n in ORDERS:
        rows = rows_by_place(rough.detectors(n=n))
        assert sorted(set(rows) - seen) == sorted(roles.detectors[n])
        seen |= set(rows)
    assert sorted(rows_by_place(rough.positional())) == sorted(roles.positional)
    # Rounding is coarser, so the margin is wider: fewer proofs, none of them new.
    bounds = naive_bounds(directory, "bfloat16")
    dead = [one["z_sup"] + one["margin"] <= 0 for one in bounds]
    assert places(rough.provably_dead) == places(dead)
    assert set(places(dead)) < set(roles.proven_dead)
