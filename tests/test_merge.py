"""Merged runs: the numbers of one scan of all the text, exactly or in bounds that hold; in any order."""

from __future__ import annotations

import itertools
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from same_files import contents

import checkpoints
import pyneurons
from pyneurons import failpoints
from pyneurons._verify import verify
from pyneurons.covering import covering_number, exact_share
from pyneurons.errors import (
    IncompleteError,
    InputError,
    IntegrityError,
    PyneuronsError,
)
from pyneurons.ledger import Plan
from pyneurons.merging import histograms
from pyneurons.merging.counters import total
from pyneurons.merging.lists import NgramIds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

VOCABULARY = checkpoints.BASE["vocab_size"]
LAYERS = 2
TABLES = ("ngrams", "vocabulary", "examples", "neurons", "tokens", "suppression")


def text(seed: int, number: int = 60) -> list[list[int]]:
    """Documents of one sequence each, of words that come again; no two have one beginning."""
    generator = np.random.default_rng(seed)
    words = np.random.default_rng(9).integers(4, VOCABULARY, size=(40, 3))
    documents = []
    for i, length in enumerate(generator.integers(1, 8, size=number)):
        chosen = words[(generator.random(int(length)) ** 2 * 40).astype(int)]
        documents.append([4 + seed, 4 + i % 80, *chosen.reshape(-1).tolist()])
    return documents


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    checkpoints.make(directory, "pre", seed=3, num_hidden_layers=LAYERS)
    return directory


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def scan(model: Path, out: Path | None, corpus: Any, **options: Any) -> pyneurons.Scan:
    plain = {
        "context": 24, "packing": "document", "dtype": "bfloat16", "flip_sample": 60,
        "progress": False, "threads": 2,
    }  # fmt: skip
    return pyneurons.scan(model, corpus, out=out, **(plain | options))


def merge(runs: Sequence[Any], out: Path, **options: Any) -> pyneurons.Scan:
    return pyneurons.merge(runs, out=out, **({"progress": False, "threads": 2} | options))


def quarters() -> list[dict[str, list[list[int]]]]:
    """Four corpora; not all hold all domains, nor name them in one order."""
    return [
        {"b": text(1), "a": text(2, 30)},
        {"a": text(3), "b": text(4)},
        {"c": text(5, 20)},
        {"a": text(6, 5), "c": text(7, 9)},
    ]


@pytest.fixture(scope="module", params=[False, True], ids=["lists", "bits"])
def runs(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[pyneurons.Scan]:
    folder = tmp_path_factory.mktemp("runs")
    options = {"keep_bits": request.param, "list_limit": 50}
    return [
        scan(model, folder / f"quarter-{i}", corpus, **options)
        for i, corpus in enumerate(quarters())
    ]


def one_scan(model: Path, merged: pyneurons.Scan, **options: Any) -> pyneurons.Scan:
    """Scan the sequences of a merged run, in its order, as one corpus of one domain."""
    documents = [
        merged.ids[begin + 1 : end].tolist()
        for begin, end in itertools.pairwise(merged.starts.tolist())
    ]
    return scan(model, options.pop("out", None), documents, **options)


# -- against one scan ------------------------------------------------------------------------------


def test_counters_are_those_of_one_scan(
    model: Path, runs: list[pyneurons.Scan], tmp_path: Path
) -> None:
    merged = merge(runs, tmp_path / "merged")
    whole = one_scan(model, merged)
    assert np.array_equal(whole.ids, merged.ids)
    assert np.array_equal(whole.starts, merged.starts)
    for name in (
        "fires", "dead", "bos_fires", "separator_fires", "first_fire", "z_max", "z_sup", "mi",
        "provably_dead",
    ):  # fmt: skip
        assert np.array_equal(getattr(whole, name), getattr(merged, name)), name
    for layer in whole.layers:
        assert np.array_equal(whole.position_fires(layer), merged.position_fires(layer))
    assert merged.sequences == sum(run.sequences for run in runs)
    assert merged.full_sequences == whole.full_sequences > 0
    assert (merged.fires > 0).any()
    assert list(merged.domain_tokens) == ["a", "b", "c"]
    for name, fires in merged.domain_fires.items():
        own = [run.domain_fires[name] for run in runs if name in run.domain_tokens]
        assert np.array_equal(fires, sum(own))
        tokens = [run.domain_tokens.get(name, 0) for run in runs]
        assert merged.domain_tokens[name] == sum(tokens)
        for layer in merged.layers:
            curves = [run.position_fires(layer, name) for run in runs if name in run.domain_tokens]
            assert np.array_equal(merged.position_fires(layer, name), sum(curves))
    assert verify(merged.directory).problems == []


def test_ngrams_are_those_of_one_scan_or_lie_in_their_bounds(
    model: Path, runs: list[pyneurons.Scan], tmp_path: Path
) -> None:
    merged = merge(runs, tmp_path / "merged")
    whole, all_listed = one_scan(model, merged), one_scan(model, merged, list_limit=10**6)
    for n in (1, 2, 3):
        exact = merged.exact(n)
        assert np.array_equal(whole.ngram_fires(n), merged.ngram_fires(n))
        for share in (None, "0.5", "0.99"):
            least, most = merged.coverage_bounds(n, share)
            truth = whole.coverage(n, share)
            assert np.array_equal(truth[exact], least[exact])
            assert np.array_equal(truth[exact], most[exact])
            assert (least <= truth).all()
            assert (truth <= most).all()
        fires = {
            (row["layer"], row["neuron"], *(row[f"t{i}"] for i in range(n))): row
            for row in all_listed._run.table("ngrams", n=n).to_pylist()
        }
        for row in merged._run.table("ngrams", n=n).to_pylist():
            truth = fires[(row["layer"], row["neuron"], *(row[f"t{i}"] for i in range(n)))]
            assert row["fires"] <= truth["fires"] <= row.get("fires_most", row["fires"])
            assert row["occurrences"] == truth["occurrences"]
            assert row["complete"] <= exact[merged.layers.index(row["layer"]), row["neuron"]]
        found, expected = merged.detectors(n).to_pylist(), whole.detectors(n).to_pylist()
        known = [row for row in found if row["exact"]]
        open_ = {(row["layer"], row["neuron"]) for row in found if not row["exact"]}
        assert known == [row for row in expected if (row["layer"], row["neuron"]) not in open_]
    if runs[0].manifest["settings"]["keep_bits"]:
        assert all(merged.exact(n).all() for n in (1, 2, 3))
    else:
        shares = [merged.exact(n)[~merged.dead].mean() for n in (1, 2, 3)]
        assert max(shares) > 0.05, "nothing is compared"
        assert min(shares) < 1, "no bound is compared"


@pytest.mark.parametrize("limit", [50, 10**6])
def test_with_the_bits_every_byte_is_that_of_one_scan(
    model: Path, tmp_path: Path, limit: int
) -> None:
    """One domain, rows in one order: nothing differs but the plan and the manifest."""
    options = {"keep_bits": True, "list_limit": limit}
    runs = [scan(model, tmp_path / f"{i}", text(i), **options) for i in range(1, 4)]
    merged = merge(runs, tmp_path / "merged", model=model)
    whole = one_scan(model, merged, out=tmp_path / "whole", **options)
    of_all = contents(whole.directory, without={"plan.json", "manifest.json"})
    of_merged = contents(merged.directory, without={"plan.json", "manifest.json"})
    del of_all["manifest.json"], of_merged["manifest.json"]
    # Of the float32 samples there are three, of other rows.
    names = [name for name in of_all if not name.startswith("counts-")]
    assert {name: of_all[name] for name in names} == {name: of_merged[name] for name in names}
    assert set(of_all) == set(of_merged)
    for layer in whole.layers:
        for name in whole._run.layer_names(layer):
            if name not in {"sample_fires", "flips_gained", "flips_lost"}:
                one, other = (s._run.stored_layer_array(layer, name) for s in (whole, merged))
                assert one.dtype == other.dtype
                assert np.array_equal(one, other), name


def test_scores_of_triggers_need_the_model(
    model: Path, runs: list[pyneurons.Scan], tmp_path: Path
) -> None:
    plain = merge(runs[:2], tmp_path / "plain")
    with pytest.raises(InputError, match="--model"):
        plain.suppression(1)
    assert not (plain.directory / "suppression.parquet").exists()
    scored = merge(runs[:2], tmp_path / "scored", model=model)
    detectors = [row for row in scored.detectors(1).to_pylist() if row["exact"]]
    assert scored.suppression(1).num_rows == len(detectors)
    # Merged again, with and without.
    assert merge([scored, runs[2]], tmp_path / "again").manifest["merged"]["suppression"] is False
    other = tmp_path / "other"
    checkpoints.make(other, "pre", seed=4, num_hidden_layers=LAYERS)
    with pytest.raises(InputError, match=r"model: .*other has the fingerprint|differs"):
        merge(runs[:2], tmp_path / "refused", model=other)


def test_examples_are_those_of_one_scan(
    model: Path, runs: list[pyneurons.Scan], tmp_path: Path
) -> None:
    """Rows in one order: the same rows. (No sequence is in two runs.)"""
    merged = merge(runs, tmp_path / "merged")
    assert merged.manifest["merged"]["repeated_sequences"] == 0
    whole = one_scan(model, merged)
    names = ["layer", "neuron", "row", "sequence", "position", "token"]
    one, other = (s._run.table("examples").select(names) for s in (whole, merged))
    assert one.equals(other)
    layer, neuron = np.argwhere(merged.fires > 3)[0].tolist()
    shown = merged.contexts(merged.layers[layer], neuron)
    assert {context["domain"] for context in shown} <= {"a", "b", "c"}


# -- any order, any grouping -----------------------------------------------------------------------


def test_order_and_grouping_change_no_byte(runs: list[pyneurons.Scan], tmp_path: Path) -> None:
    number = itertools.count()

    def put(*parts: Any) -> pyneurons.Scan:
        return merge(parts, tmp_path / f"{next(number)}")

    a, b, c, d = runs
    expected = contents(put(a, b, c, d).directory)
    for other in (
        put(d, c, b, a),
        put(b, put(d, a), c),
        put(put(a, b), put(c, d)),
        put(put(c, a), put(d, b)),
        put(put(put(b, a), c), d),
        put(d, put(c, put(b, a))),
    ):
        assert contents(other.directory) == expected
        assert len(other.parts) == 4


small_histogram = st.lists(
    st.dictionaries(st.integers(1, 9), st.integers(1, 4), max_size=4), min_size=3, max_size=3
)


def histogram_of(neurons: list[dict[int, int]]) -> Any:
    flat = [(f, c) for f, own in enumerate(neurons) for c, k in own.items() for _ in range(k)]
    neuron, count = np.array(flat, dtype=np.int64).reshape(-1, 2).T
    return histograms.from_counts(neuron, count, len(neurons))


def counts_of(histogram: Any) -> list[list[int]]:
    offsets, count, number = histogram
    own = [slice(*bounds) for bounds in itertools.pairwise(offsets)]
    return [np.repeat(count[o], number[o])[::-1].tolist() for o in own]


@settings(max_examples=150, deadline=None)
@given(st.lists(small_histogram, min_size=1, max_size=4))
def test_joined_histograms_are_those_of_a_loop(parts: list[list[dict[int, int]]]) -> None:
    made = [histogram_of(part) for part in parts]
    aligned, disjoint = counts_of(histograms.aligned(made)), counts_of(histograms.disjoint(made))
    for f in range(3):
        own = [counts_of(one)[f] for one in made]
        assert aligned[f] == [sum(k) for k in itertools.zip_longest(*own, fillvalue=0)]
        assert disjoint[f] == sorted(itertools.chain(*own), reverse=True)
    if len(made) > 1:
        for join in (histograms.aligned, histograms.disjoint):
            grouped = join([join(made[1:]), made[0]])
            assert all(np.array_equal(x, y) for x, y in zip(grouped, join(made), strict=True))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=6, max_size=6), min_size=1, max_size=4),
    st.sampled_from(["0.2", "0.5", "0.95", "1"]),
)
def test_covering_numbers_lie_in_their_bounds(counts: list[list[int]], share: str) -> None:
    """``counts[p][g]``: fires of one neuron on n-gram g in part p."""
    fires = np.array(counts)
    total_ = np.array([fires.sum()])

    def covering(histogram: Any) -> int:
        return int(covering_number(*histogram, total_, exact_share(share))[0])

    def of(values: np.ndarray) -> Any:
        some = values[values > 0]
        return histograms.from_counts(np.zeros(some.size, dtype=np.int64), some, 1)

    parts = [of(part) for part in fires]
    truth = covering(of(fires.sum(axis=0)))
    assert covering(histograms.aligned(parts)) <= truth <= covering(histograms.disjoint(parts))


@pytest.mark.parametrize(
    ("n", "vocab_size"),
    [*itertools.product([1, 2, 3, 5], [60, 2**20]), (1, 2**31), (2, 2**31)],
)
def test_ngrams_are_found_by_their_tokens(n: int, vocab_size: int) -> None:
    """Keys of 63 bits, and where the tokens do not fit keys of bytes (a 0 at the end counts)."""
    generator = np.random.default_rng(n)
    documents = [generator.choice([3, 4, 5, 9, 55], size=30).tolist() for _ in range(20)]
    from pyneurons.corpus import ngram_index, read

    made = read(documents, None, context=16, vocab_size=60, packing="document")
    object.__setattr__(made, "vocab_size", vocab_size)
    index = ngram_index.build(made, n)
    ids = NgramIds(made, index)
    assert np.array_equal(ids.find(ids.tokens), np.arange(len(ids)))
    assert np.array_equal(np.lexsort(ids.tokens.T[::-1]), np.arange(len(ids)))
    assert ids.occurrences.sum() == index.order.size
    with pytest.raises(IntegrityError, match="does not hold it"):
        ids.find(np.full((1, n), 57, dtype=np.uint32))


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"context": 20}, "corpus.context: 24 there, 20 here"),
        ({"packing": "pack"}, "corpus.packing"),
        ({"dtype": "float32"}, "numeric.mode"),
        ({"ngrams": (1, 2)}, "options.ngrams"),
        ({"layers": [0]}, "options.layers"),
        ({"list_limit": 60}, "options.list_limit"),
        ({"keep_bits": True}, "options.keep_bits"),
        ({"projection": "cosine"}, "options.projection"),
        ({"flip_sample": 0}, "options.flip_sample"),
        ({"backend": "cpp:scalar", "dtype": "float32"}, "numeric.isa"),
    ],
)
def test_runs_of_other_options_are_refused_field_by_field(
    model: Path, tmp_path: Path, options: dict[str, Any], field: str
) -> None:
    one = scan(model, tmp_path / "one", text(1))
    other = scan(model, tmp_path / "other", text(2), **options)
    with pytest.raises(InputError, match=r"one \(there\) and .*other \(here\)") as refused:
        merge([one, other], tmp_path / "merged")
    assert field in str(refused.value)
    assert not (tmp_path / "merged").exists()


def test_runs_of_other_weights_are_refused(model: Path, tmp_path: Path) -> None:
    checkpoints.make(tmp_path / "model", "pre", seed=4, num_hidden_layers=LAYERS)
    one = scan(model, tmp_path / "one", text(1))
    other = scan(tmp_path / "model", tmp_path / "other", text(2))
    with pytest.raises(InputError, match=r"model\.fingerprint"):
        merge([one, other], tmp_path / "merged")


def test_text_that_two_runs_hold_is_refused(model: Path, tmp_path: Path) -> None:
    one = scan(model, tmp_path / "one", text(1))
    with pytest.raises(InputError, match=r"100 % of the smaller"):
        merge([one, one], tmp_path / "merged")
    other = scan(model, tmp_path / "other", text(1)[:10] + text(2))
    with pytest.raises(InputError, match=r"one and .*other overlap: \d+ sequences.*allow-repeats"):
        merge([one, other], tmp_path / "merged")
    # Also where the text is in a part of a merged run.
    third = scan(model, tmp_path / "third", text(3))
    with pytest.raises(InputError, match="overlap"):
        merge([other, merge([third, one], tmp_path / "two")], tmp_path / "merged")
    merged = merge([one, other], tmp_path / "merged", allow_repeats=True)
    assert merged.tokens == one.tokens + other.tokens
    assert merged.manifest["merged"]["repeated_sequences"] > 0
    assert verify(merged.directory).problems == []


def test_a_few_sequences_may_come_again(model: Path, tmp_path: Path) -> None:
    licence = [7, 8, 9]
    one = scan(model, tmp_path / "one", [licence, *text(1, 150)])
    other = scan(model, tmp_path / "other", [licence, *text(2, 150)])
    merged = merge([one, other], tmp_path / "merged")
    assert merged.manifest["merged"]["repeated_sequences"] == 1


def test_files_that_two_runs_hold_are_refused(model: Path, tmp_path: Path) -> None:
    """Though their sequences have other bounds."""
    arrays = [np.concatenate([np.array(d) for d in text(i)]).astype(np.uint16) for i in (1, 2, 3)]
    for name, array in zip("abc", arrays, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    shutil.copy(tmp_path / "a.npy", tmp_path / "d.npy")
    paths = {name: tmp_path / f"{name}.npy" for name in "abcd"}
    one = scan(model, tmp_path / "one", [paths["a"], paths["b"]], packing="pack")
    other = scan(model, tmp_path / "other", [paths["c"], paths["d"]], packing="pack")
    with pytest.raises(InputError, match=r"a\.npy and .*d\.npy are the same file"):
        merge([one, other], tmp_path / "merged")


def test_what_is_no_run_is_refused(model: Path, tmp_path: Path) -> None:
    one = scan(model, tmp_path / "one", text(1))
    two = scan(model, tmp_path / "two", text(2))
    with pytest.raises(InputError, match="at least two"):
        merge([one], tmp_path / "merged")
    with pytest.raises(InputError, match="one of the runs that are merged"):
        merge([one, two], tmp_path / "one", overwrite=True)
    saved = scan(model, None, text(3)).save(tmp_path / "saved")
    with pytest.raises(InputError, match=r"no plan\.json"):
        merge([one, saved], tmp_path / "merged")
    with pytest.raises(InputError, match="not a finished run"):
        merge([one, tmp_path], tmp_path / "merged")
    failpoints.arm("count=EIO@1+")
    with pytest.raises((PyneuronsError, OSError)):
        scan(model, tmp_path / "three", text(3), layers=[0])
    failpoints.arm(None)
    assert not (tmp_path / "three").exists()
    if (tmp_path / ".three.partial").exists():
        with pytest.raises(IncompleteError, match="not finished"):
            merge([one, tmp_path / "three"], tmp_path / "merged")
    assert one.fires.any(), "the runs are as they were"
    assert verify(one.directory).problems == []


def test_a_damaged_run_is_refused_by_file(model: Path, tmp_path: Path) -> None:
    one = scan(model, tmp_path / "one", text(1))
    two = scan(model, tmp_path / "two", text(2))
    path = two.directory / "counts-001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"two: counts-001\.safetensors"):
        merge([one, two], tmp_path / "merged")


def test_counters_never_wrap() -> None:
    most = np.iinfo(np.int64).max
    for start in (2**24 - 1, 2**31 - 1, 2**32 - 1, most - 1):
        assert total([np.array([start, 0]), np.array([1, 5])], "fires").tolist() == [start + 1, 5]
    with pytest.raises(IntegrityError, match=r"fires: the sum of the runs passes 2\^63 - 1"):
        total([np.array([most]), np.array([1])], "fires")
    with pytest.raises(IntegrityError, match="negative"):
        total([np.array([-1])], "fires")


# -- it survives -----------------------------------------------------------------------------------


def test_a_merge_that_was_stopped_anywhere_goes_on(model: Path, tmp_path: Path) -> None:
    runs = [scan(model, tmp_path / f"{i}", text(i)) for i in (1, 2)]
    whole = contents(merge(runs, tmp_path / "whole").directory)
    number, stopped = 1, 0
    while True:
        out = tmp_path / f"merged-{number}"
        armed = failpoints.arm(f"*=ENOSPC@{number}")
        assert armed is not None
        try:
            merge(runs, out)
        except (PyneuronsError, OSError):
            stopped += 1
        failpoints.arm(None)
        if not armed.fired:
            break
        assert contents(merge(runs, out).directory) == whole
        assert not list(tmp_path.glob(".merged*"))
        shutil.rmtree(out)
        number += 7
    assert stopped > 4


def test_a_finished_merge_is_given_back_and_another_refused(model: Path, tmp_path: Path) -> None:
    runs = [scan(model, tmp_path / f"{i}", text(i)) for i in (1, 2, 3)]
    out = tmp_path / "merged"
    first = merge(runs[:2], out)
    began = (out / "manifest.json").stat().st_mtime_ns
    assert merge(runs[1::-1], out).tokens == first.tokens
    assert (out / "manifest.json").stat().st_mtime_ns == began
    with pytest.raises(InputError, match=r"corpus\.tokens"):
        merge(runs, out)
    assert merge(runs, out, overwrite=True).tokens == sum(run.tokens for run in runs)
    parts = Plan.read(out).identity["corpus"]["parts"]
    assert [part["sha256"] for part in parts] == sorted(part["sha256"] for part in parts)


def test_verify_knows_the_bounds(model: Path, tmp_path: Path) -> None:
    """A merged run whose checksums are right and whose bounds are not."""
    from safetensors.numpy import load_file, save_file

    from pyneurons import durable

    runs = [scan(model, tmp_path / f"{i}", text(i), list_limit=50) for i in (1, 2)]
    merged = merge(runs, tmp_path / "merged").directory
    path = merged / "counts-000.safetensors"
    arrays = load_file(path)
    arrays["aligned_2_count"] = arrays["aligned_2_count"].copy()
    arrays["aligned_2_count"][-1] += 1
    save_file(arrays, path)
    sums = merged / "SHA256SUMS"
    lines = [
        f"{durable.sha256_of(path)}  {path.name}" if line.endswith(path.name) else line
        for line in sums.read_text().splitlines()
    ]
    sums.write_text("\n".join(lines) + "\n")
    problems = verify(merged).problems
    assert any("aligned counts of 2-grams" in problem for problem in problems)


def test_a_merged_run_is_read_like_any_other(
    runs: list[pyneurons.Scan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from pyneurons.report import text as texts

    merged = merge(runs, tmp_path / "merged")
    loaded = pyneurons.load(tmp_path / "merged")
    assert json.dumps(loaded.manifest)
    layer, neuron = np.argwhere(~merged.exact(2) | (merged.fires > 0))[0].tolist()
    for block in [*texts.summary(loaded), *texts.neuron(loaded, f"{layer}.{neuron}")]:
        Console(width=100).print(block)
    said = capsys.readouterr().out
    assert "merged from 4 scans" in said
    rows = loaded.neurons.to_pylist()
    for row in rows:
        if row.get("exact_2") is False:
            assert row["coverage_2"] is None
            assert row["coverage_2_least"] <= row["coverage_2_most"]
    if runs[0].manifest["settings"]["keep_bits"]:
        assert np.array_equal(loaded.bits(0).sum(axis=0), loaded.fires[0])
    elif not loaded.exact(2).all():
        with pytest.raises(InputError, match="coverage_bounds"):
            loaded.coverage(2)
    assert loaded.report(tmp_path / "figures")


# -- the demo --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("keep_bits", [False, True])
def test_four_quarters_of_the_demo_against_one_run(tmp_path: Path, keep_bits: bool) -> None:
    """Every fourth document of each domain; prints what is equal, table by table."""
    from pyneurons import demo

    documents = {name: list(texts) for name, texts in demo.demo_corpus().items()}
    options = {"packing": "document", "keep_bits": keep_bits, "progress": False}
    one = pyneurons.scan("demo", documents, out=tmp_path / "one", **options)
    runs = []
    for i in range(4):
        quarter = {name: texts[i::4] for name, texts in documents.items()}
        runs.append(pyneurons.scan("demo", quarter, out=tmp_path / f"{i}", **options))
    merged = merge(runs, tmp_path / "merged", model="demo")
    assert verify(merged.directory).problems == []
    # Rows of the one run in the order of the merged one: their sequences are the same.
    names = ("fires", "bos_fires", "separator_fires", "z_max", "z_sup", "margin", "dead")
    for name in names:
        assert np.array_equal(getattr(one, name), getattr(merged, name)), name
    cells = merged.fires.size
    for name in one.domain_fires:
        assert np.array_equal(one.domain_fires[name], merged.domain_fires[name])
        for layer in one.layers:
            curves = one.position_fires(layer, name), merged.position_fires(layer, name)
            assert np.array_equal(*curves)
            cells += curves[0].size
    print(f"\n{cells:,} counters of {', '.join(names)}, domains and positions: all equal")
    print(f"mutual information equal: {np.array_equal(one.mi, merged.mi)}")
    for n in (1, 2, 3):
        assert np.array_equal(one.ngram_fires(n), merged.ngram_fires(n))
        exact, live, truth = merged.exact(n), ~one.dead, one.coverage(n)
        least, most = merged.coverage_bounds(n)
        assert (least <= truth).all()
        assert (truth <= most).all()
        assert np.array_equal(truth[exact], most[exact])
        assert exact[live & (truth <= 200)].all()
        assert exact.all() == keep_bits
        expected, found = (s.detectors(n).to_pylist() for s in (one, merged))
        assert all(row["exact"] for row in found), "no neuron is left open"
        assert found == expected
        listed = [
            {(r["layer"], r["neuron"], r["t0"], r["t1"], r["t2"]): r["fires"] for r in rows}
            for rows in (s._run.table("ngrams", n=n).to_pylist() for s in (one, merged))
        ]
        both = [key for key in listed[0] if key in listed[1] and exact[key[0], key[1]]]
        assert all(listed[0][key] == listed[1][key] for key in both)
        rough = live & ~exact
        ratios = [np.median(bound[rough] / truth[rough]) for bound in (least, most) if rough.any()]
        print(
            f"n = {n}: {exact[live].mean():.1%} of {live.sum():,} neurons that fire exact; "
            f"{len(found)} detectors, all equal; of {len(listed[0]):,} listed n-grams {len(both):,} "
            f"are exact in both and equal; bounds of the others / truth, medians: {ratios}"
        )
    texts = []
    for s in (one, merged):
        rows = s._run.table("examples").to_pylist()
        around = [s.ids[max(0, r["row"] - r["position"]) : r["row"] + 1].tobytes() for r in rows]
        texts.append({(r["layer"], r["neuron"], a) for r, a in zip(rows, around, strict=True)})
    equal = len(texts[0] & texts[1])
    print(f"examples: {equal:,} of {len(texts[0]):,} are the same text")
    assert equal > 0.995 * len(texts[0])  # one sequence is in two quarters
    tables = [s._run.table("vocabulary") for s in (one, merged)]
    assert tables[0].equals(tables[1])
    shares = [s.suppression_shares(1) for s in (one, merged)]
    print(f"detectors with scores: {shares[0]['detectors'][0]} and {shares[1]['detectors'][0]}")
