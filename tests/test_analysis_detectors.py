"""Definition 4, sentence by sentence in plain loops; and what chance makes of it."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from firing_lists import count, histograms, made_up, spectrum, totals
from pyneurons.analysis import detectors as module
from pyneurons.analysis.detectors import (
    decided,
    detectors,
    expected_detectors,
    roles,
    supported,
)
from pyneurons.covering import covering_number
from pyneurons.errors import InputError, IntegrityError, ShapeError

SHARE = Fraction(19, 20)
SWEEPS: list[dict[str, Any]] = [
    {},
    {"K": 1},
    {"K": 20, "coverage": "0.5"},
    {"K": 50, "precision": 0.8},
    {"K": 50, "coverage": 1, "precision": Fraction(1, 2), "min_count": 3},
    {"coverage": "2/3", "precision": "1/10", "min_count": 2},
]


def lists(tokens: list[int], layers: dict[int, np.ndarray], n: int) -> dict[str, np.ndarray]:
    parts = [count(tokens, bits, n, layer) for layer, bits in layers.items()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def arguments(tokens: list[int], layers: dict[int, np.ndarray], n: int, share: Any) -> Any:
    """Return what a run would hand to `detectors`."""
    table = lists(tokens, layers, n)
    neurons = next(iter(layers.values())).shape[1]
    fires, held, covering = [], [], []
    for layer, bits in layers.items():
        own = {name: column[table["layer"] == layer] for name, column in table.items()}
        fires.append(bits.sum(axis=0))
        held.append(totals(own, neurons))
        exact = share if isinstance(share, Fraction) else Fraction(str(share))
        covering.append(covering_number(*histograms(own, neurons), held[-1], exact))
    return table, {
        "layers": list(layers),
        "fires": np.array(fires),
        "ngram_fires": np.array(held),
        "covering": np.array(covering),
        "n": n,
    }


def slow_detector(
    held: dict[tuple[int, ...], int],
    occurrences: Counter[tuple[int, ...]],
    largest: int,
    coverage: Fraction = SHARE,
    precision: Fraction = SHARE,
    min_count: int = 1,
) -> dict[str, Any] | None:
    """Definition 4 of one neuron, in fractions."""
    total = sum(held.values())
    if total == 0:
        return None
    in_order = sorted(held, key=lambda gram: (-held[gram], gram))
    least = next(
        k
        for k in range(1, len(in_order) + 1)
        if Fraction(sum(held[gram] for gram in in_order[:k]), total) >= coverage
    )
    if least > largest:
        return None
    covered = [
        gram
        for gram in in_order
        if occurrences[gram] >= min_count and Fraction(held[gram], occurrences[gram]) >= precision
    ]
    share = Fraction(sum(held[gram] for gram in covered), total)
    if share < coverage:
        return None
    return {
        "ngram_fires": total,
        "covering": least,
        "covered": [list(gram) for gram in covered],
        "coverage": float(share),
        "min_occurrences": min(occurrences[gram] for gram in covered),
        "support": sum(held[gram] for gram in covered if occurrences[gram] >= 5),
    }


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()))
@pytest.mark.parametrize("n", [1, 2, 3])
def test_detectors_are_those_of_a_loop(n: int, sweep: dict[str, Any]):
    rng = np.random.default_rng(n)
    tokens, low = made_up(rng)
    layers = {2: low, 0: made_up(rng)[1], 5: made_up(rng)[1]}
    table, given = arguments(tokens, layers, n, sweep.get("coverage", SHARE))
    shuffle = rng.permutation(table["layer"].size)
    found = detectors({k: v[shuffle] for k, v in table.items()}, **given, **sweep)

    occurrences = Counter(tuple(tokens[r - n + 1 : r + 1]) for r in range(n - 1, len(tokens)))
    expected = []
    exact = {k: Fraction(str(v)) for k, v in sweep.items() if k in ("coverage", "precision")}
    for layer, bits in sorted(layers.items()):
        for f in range(bits.shape[1]):
            held = Counter(
                tuple(tokens[r - n + 1 : r + 1]) for r in range(n - 1, len(tokens)) if bits[r, f]
            )
            row = slow_detector(
                held,
                occurrences,
                sweep.get("K", 5 if n == 1 else 50),
                min_count=sweep.get("min_count", 1),
                **exact,
            )
            if row is not None:
                expected.append({"layer": layer, "neuron": f, "fires": int(bits[:, f].sum())} | row)
    # Rows come in the order of `layers`: 2, 0, 5.
    expected.sort(key=lambda row: (list(layers).index(row["layer"]), row["neuron"]))
    assert len(found["layer"]) == len(expected)
    assert expected or n == 1 or sweep
    for i, row in enumerate(expected):
        assert {name: found[name][i] for name in row} == row
    assert (found["n"] == n).all()
    np.testing.assert_array_equal(
        supported(found), [row["support"] >= SHARE * row["ngram_fires"] for row in expected]
    )


def test_there_are_detectors_and_others_in_the_data_above():
    tokens, bits = made_up(np.random.default_rng(1))
    table, given = arguments(tokens, {0: bits}, 1, SHARE)
    found = detectors(table, **given)
    assert 2 < len(found["layer"]) < bits.shape[1] - 2
    assert supported(found).any()


def one_neuron(fires: list[int], occurrences: list[int], **changes: Any) -> dict[str, Any]:
    """Apply `detectors` to one neuron with these token counts."""
    table = {
        "layer": np.zeros(len(fires), int),
        "neuron": np.zeros(len(fires), int),
        "fires": np.array(fires),
        "occurrences": np.array(occurrences),
        "rank": np.arange(len(fires)),
        "t0": np.arange(len(fires)) + 100,
        "complete": np.ones(len(fires), bool),
    }
    values = sorted(set(fires))
    share = Fraction(str(changes.get("coverage", SHARE)))
    covering = covering_number(
        np.array([0, len(values)]),
        np.array(values),
        np.array([fires.count(value) for value in values]),
        np.array([sum(fires)]),
        share,
    )
    total = np.array([[sum(fires)]])
    one = {"layers": [0], "fires": total, "ngram_fires": total, "covering": covering[None], "n": 1}
    return detectors(table, **one, **changes)


@pytest.mark.parametrize(
    ("fires", "occurrences", "is_detector"),
    [
        ([19], [20], True),  # exactly 95 % of its occurrences
        ([18], [19], False),
        ([19, 1], [19, 100], True),  # exactly 95 % of the fires
        ([18, 1], [18, 100], False),
        ([10, 10, 10, 10, 10], [10] * 5, True),
        ([10, 10, 10, 10, 10, 10], [10] * 6, False),  # six tokens, K = 5
        ([40, 40, 10, 5, 1, 1, 1, 1, 1], [40, 40, 10, 5, 1, 1, 1, 1, 1], True),  # nine covered
        ([1], [1], True),
    ],
)
def test_the_borders_of_the_definition(fires: list[int], occurrences: list[int], is_detector: bool):
    found = one_neuron(fires, occurrences)
    assert len(found["layer"]) == is_detector
    if is_detector:
        covered = [[100 + i] for i, m in enumerate(occurrences) if 20 * fires[i] >= 19 * m]
        assert found["covered"] == [covered]


def test_shares_are_exact():
    # As floats 0.07 * 100 is 7.000000000000001, and 0.29 * 100 is 28.999999999999996.
    assert one_neuron([7], [100], precision=0.07)["covered"] == [[[100]]]
    assert one_neuron([6], [100], precision=0.07)["covered"] == []
    assert one_neuron([7, 93], [7, 1000], coverage=0.07)["covered"] == [[[100]]]
    assert one_neuron([28, 72], [28, 1000], coverage=0.29)["covered"] == []


def test_min_count_restricts_what_is_covered_and_nothing_else():
    # The token seen once still counts in the covering number and in A_n.
    assert one_neuron([19, 1], [19, 1], min_count=2)["covered"] == [[[100]]]
    assert one_neuron([18, 1], [18, 1], min_count=2)["covered"] == []
    assert one_neuron([18, 1], [18, 1], min_count=1)["covered"] == [[[100], [101]]]


def test_support_counts_what_occurs_five_times():
    found = one_neuron([5, 4], [5, 4])
    assert found["support"].tolist() == [5]
    assert found["min_occurrences"].tolist() == [4]
    assert supported(found).tolist() == [False]
    assert supported(one_neuron([95, 4, 1], [95, 4, 1])).tolist() == [True]
    assert supported(one_neuron([94, 4, 1], [94, 4, 1])).tolist() == [False]


def test_ties_are_in_the_order_of_the_rank():
    found = one_neuron([7, 7, 9], [7, 7, 9])
    assert found["covered"] == [[[102], [100], [101]]]


def test_strings_are_joined_and_null_without_an_entry():
    words: list[str | None] = [None] * 100 + [" im", "port"]
    assert one_neuron([7, 6], [7, 6], strings=words)["strings"] == [[" im", "port"]]
    assert one_neuron([7, 6], [7, 6], strings=words[:101])["strings"] == [[" im", None]]
    assert one_neuron([7, 6], [7, 6])["strings"] == [None]
    tokens = [1, 0, 1, 0, 1]
    table, given = arguments(tokens, {0: np.array([[0, 1, 0, 1, 0]], bool).T}, 2, SHARE)
    assert detectors(table, **given, strings=["b", "a"])["strings"] == [["ab"]]


def test_permuting_neurons_permutes_the_rows():
    rng = np.random.default_rng(8)
    tokens, bits = made_up(rng)
    order = rng.permutation(bits.shape[1])
    tables = []
    for some in (bits, bits[:, order]):
        table, given = arguments(tokens, {0: some}, 2, SHARE)
        tables.append(detectors(table, **given))
    first, second = tables
    back = np.argsort(order[second["neuron"]])
    np.testing.assert_array_equal(order[second["neuron"]][back], first["neuron"])
    for name in ("fires", "ngram_fires", "covering", "coverage", "min_occurrences", "support"):
        np.testing.assert_array_equal(second[name][back], first[name])
    assert [second["covered"][i] for i in back] == first["covered"]


def short(n: int = 1) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return lists cut to the top 3 n-grams wherever the covering number is above 4."""
    tokens, bits = made_up(np.random.default_rng(5))
    table, given = arguments(tokens, {0: bits}, n, SHARE)
    incomplete = given["covering"][0][table["neuron"]] > 4
    order = np.lexsort((table["rank"], -table["fires"], table["neuron"]))
    table = {name: column[order] for name, column in table.items()}
    incomplete = incomplete[order]
    starts = np.searchsorted(table["neuron"], table["neuron"])
    keep = ~incomplete | (np.arange(starts.size) - starts < 3)
    table["complete"] = ~incomplete
    return {name: column[keep] for name, column in table.items()}, given


def test_what_is_not_kept_is_refused_and_not_guessed():
    table, given = short()
    exact = detectors(table, **given, K=4)
    assert len(exact["layer"]) > 0
    with pytest.raises(InputError, match="larger list_limit"):
        detectors(table, **given, K=6)
    none = {name: column[:0] for name, column in table.items()}
    with pytest.raises(InputError, match="0\\.0 first"):
        detectors(none, **given)


def test_a_list_that_holds_all_fires_is_whole_whatever_the_flag_says():
    tokens, bits = made_up(np.random.default_rng(5))
    table, given = arguments(tokens, {0: bits}, 1, SHARE)
    unmarked = table | {"complete": np.zeros(table["layer"].size, bool)}
    assert detectors(unmarked, **given)["covered"] == detectors(table, **given)["covered"]


def test_lists_that_contradict_the_counters_are_an_error():
    tokens, bits = made_up(np.random.default_rng(5))
    table, given = arguments(tokens, {0: bits}, 1, SHARE)
    with pytest.raises(IntegrityError, match=r"hold \d+ fires, expected"):
        detectors(table, **(given | {"ngram_fires": given["ngram_fires"] + 1}))
    with pytest.raises(IntegrityError, match="covering number"):
        detectors(
            table, **(given | {"covering": np.where(given["covering"] == 2, 1, given["covering"])})
        )


def test_arguments_are_checked():
    tokens, bits = made_up(np.random.default_rng(5))
    table, given = arguments(tokens, {0: bits}, 1, SHARE)
    with pytest.raises(ShapeError, match="covering has shape"):
        detectors(table, **(given | {"covering": given["covering"][:, 1:]}))
    with pytest.raises(InputError, match="K is 0"):
        detectors(table, **given, K=0)
    with pytest.raises(InputError, match="coverage"):
        detectors(table, **given, coverage=1.5)
    with pytest.raises(InputError, match=r"layers \[0\], which are not among \[7\]"):
        detectors(table, **(given | {"layers": [7]}))


def test_nothing_is_a_table_too():
    none = np.zeros(0, int)
    columns = ("layer", "neuron", "fires", "occurrences", "rank", "complete", "t0")
    zero = np.zeros((1, 4), int)
    found = detectors(
        dict.fromkeys(columns, none), layers=[0], fires=zero, ngram_fires=zero, covering=zero, n=1
    )
    assert all(len(column) == 0 for column in found.values())


def test_a_role_is_the_smallest_n():
    tables = {
        3: {"layer": np.array([4, 4, 6]), "neuron": np.array([0, 1, 2])},
        1: {"layer": np.array([4]), "neuron": np.array([1])},
        2: {"layer": np.array([6, 6]), "neuron": np.array([2, 3])},
    }
    for table in tables.values():
        table["exact"] = np.ones(table["layer"].size, dtype=bool)
    assert roles(tables, [4, 6], 4).tolist() == [[3, 1, 0, 0], [0, 0, 2, 2]]
    # Open for bigrams: so is the role of neurons that detect no token.
    tables[2]["exact"][:] = False
    assert roles(tables, [4, 6], 4).tolist() == [[3, 1, 0, 0], [0, 0, -1, -1]]
    tables[3] = decided(tables[2])
    assert tables[3]["layer"].size == 0


# ----- what chance makes --------------------------------------------------------------------------


def exact_chance(
    occurrences: np.ndarray, number: np.ndarray, fires: int, largest: int, **rule: Any
) -> tuple[float, float]:
    """Return the chance of a (supported) detector, over every set of ``fires`` positions."""
    grams = [
        (gram,) for gram, m in enumerate(np.repeat(occurrences, number).tolist()) for _ in range(m)
    ]
    seen = Counter(grams)
    hits = [0, 0]
    tried = 0
    for positions in combinations(range(len(grams)), fires):
        tried += 1
        row = slow_detector(Counter(grams[p] for p in positions), seen, largest, **rule)
        hits[0] += row is not None
        hits[1] += row is not None and 20 * row["support"] >= 19 * fires
    return hits[0] / tried, hits[1] / tried


@pytest.mark.parametrize(
    ("n", "largest", "rule"),
    [
        (1, 5, {}),
        (1, 2, {}),
        (3, 50, {}),
        (1, 3, {"coverage": Fraction(1, 2), "precision": Fraction(1, 2)}),
        (1, 5, {"min_count": 2, "coverage": Fraction(2, 3)}),
    ],
)
def test_the_estimate_is_near_the_exact_chance(n: int, largest: int, rule: dict[str, Any]):
    occurrences, number = np.array([1, 2, 5]), np.array([4, 1, 1])  # 11 positions
    for fires in range(1, 12):
        chance = exact_chance(occurrences, number, fires, largest, **rule)
        found = expected_detectors(
            np.array([fires]), occurrences, number, n=n, K=largest, draws=1000, **rule
        )
        for value, exact, error in (
            (found.total, chance[0], found.total_error),
            (found.total_supported, chance[1], found.total_supported_error),
        ):
            assert value == pytest.approx(exact, abs=max(5 * error, 0.01)), fires
            if fires == 1:
                assert value == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_random_neurons_are_detectors_as_often_as_expected(n: int):
    rng = np.random.default_rng(n)
    tokens, _ = made_up(rng, rows=600, vocabulary=200)
    neurons = 600
    bits = np.zeros((600, neurons), bool)
    rates = np.concatenate([np.full(400, 0.003), np.full(200, 0.02)])
    bits[:] = rng.random(bits.shape) < rates
    table, given = arguments(tokens, {0: bits}, n, SHARE)
    found = detectors(table, **given)
    expected = expected_detectors(given["ngram_fires"], *spectrum(tokens, n), n=n)
    # Each neuron is a detector or not: the spread of their number is at most binomial.
    for number, mean, error in (
        (len(found["layer"]), expected.total, expected.total_error),
        (int(supported(found).sum()), expected.total_supported, expected.total_supported_error),
    ):
        assert abs(number - mean) <= 5 * (np.sqrt(mean) + error) + 1
    if n == 3:
        assert expected.total > 50
        assert expected.total_supported < 1


def test_what_is_skipped_is_never_drawn(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(9)
    tokens, _ = made_up(rng, rows=2000, vocabulary=60)
    every = np.concatenate([np.arange(12), np.arange(12, 600, 9)])
    for n, rule in ((1, {}), (2, {}), (3, {}), (1, {"coverage": "0.3"}), (2, {"precision": "0.5"})):
        seen = spectrum(tokens, n)
        fast = expected_detectors(every, *seen, n=n, draws=20, **rule)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_negligible", lambda _s, distinct, _r: distinct == 0)
            slow = expected_detectors(every, *seen, n=n, draws=20, **rule)
        assert fast.simulated < 40
        assert slow.simulated > 70
        assert fast.total == slow.total
        assert fast.total_supported == slow.total_supported


def test_the_bounds_hold_where_the_chance_is_large():
    # All but one of twenty positions are one token: firing there is what a random neuron does.
    occurrences, number = np.array([1, 400]), np.array([4, 1])
    found = expected_detectors(np.full(3, 404), occurrences, number, n=1)
    assert found.total == pytest.approx(3)
    assert found.total_supported == pytest.approx(3)


@pytest.mark.parametrize(("fires", "number"), [(1, 1), (3, 1), (10, 1), (52, 1), (53, 0)])
def test_ngrams_that_occur_once_make_detectors_of_chance(fires: int, number: int):
    # The 50 most frequent n-grams have a 20,000th of the positions, but any 50 will do.
    found = expected_detectors(np.array([fires]), np.array([1]), np.array([10**6]), n=3)
    assert found.total == number
    assert found.total_supported == 0


def test_the_expected_number_adds_up_over_neurons_and_layers():
    rng = np.random.default_rng(2)
    occurrences, number = np.array([1, 2, 9]), np.array([50, 20, 3])
    fires = rng.integers(0, 6, size=(3, 31))
    found = expected_detectors(fires, occurrences, number, n=3)
    assert found.every.shape == found.supported_error.shape == (3,)
    assert found.total == pytest.approx(found.every.sum())
    for layer in range(3):
        alone = expected_detectors(fires[layer], occurrences, number, n=3)
        assert alone.total == pytest.approx(found.every[layer])
        assert alone.total_error == pytest.approx(found.every_error[layer])
    shuffled = expected_detectors(fires.reshape(-1)[rng.permutation(93)], occurrences, number, n=3)
    assert shuffled.total == pytest.approx(found.total)
    assert shuffled.total_error == pytest.approx(found.total_error)
    # The same draws serve all layers, so errors add before they are squared.
    assert found.total_error > np.sqrt((found.every_error**2).sum())
    other = expected_detectors(fires, occurrences, number, n=3, seed=1)
    assert other.total != found.total
    assert other.total == pytest.approx(
        found.total, abs=5 * (found.total_error + other.total_error)
    )


def test_dead_neurons_add_nothing_and_too_many_fires_are_an_error():
    empty = np.zeros(0, int)
    assert expected_detectors(np.zeros((2, 3), int), empty, empty, n=1).total == 0
    with pytest.raises(IntegrityError, match="5 fires at the 4 countable positions"):
        expected_detectors(np.array([5]), np.array([1]), np.array([4]), n=1)
    with pytest.raises(ShapeError, match="spectrum"):
        expected_detectors(np.array([1]), np.array([1]), np.array([4, 4]), n=1)
