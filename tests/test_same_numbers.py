"""Numbers that nothing changes: threads, budgets, company, repetition; and what is counted once."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from same_files import contents

import checkpoints
import inputs
import pyneurons
from pyneurons import corpus, failpoints, ops
from pyneurons._verify import standing, verify
from pyneurons.corpus import ngram_index
from pyneurons.engine import identity, plan, run
from pyneurons.engine.run import Engine
from pyneurons.errors import InputError, IntegrityError
from pyneurons.observers.firing import FiringObserver

if TYPE_CHECKING:
    from pathlib import Path

ON, OFF = 7, 8
"""A neuron that always fires, and one that never does."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    built = checkpoints.build("pre", seed=3)
    with torch.no_grad():
        for layer in built.model.decoder.layers:
            layer.fc1.bias[ON], layer.fc1.bias[OFF] = 60.0, -60.0
    checkpoints.write_model(built, directory)
    return directory


def documents(longest: int) -> dict[str, list[list[int]]]:
    """Documents of every length from 1 on, in two domains."""
    generator = np.random.default_rng(5)
    made = [generator.integers(4, 12, size=length).tolist() for length in range(1, longest + 1)]
    return {"a": made, "b": made[::-3]}


@pytest.mark.parametrize("packing", ["pack", "document"])
@pytest.mark.parametrize("most", [16, 33, 64, 2048])
def test_every_position_is_counted_once_and_padding_never(
    model: Path, monkeypatch: pytest.MonkeyPatch, packing: str, most: int
) -> None:
    """Of a neuron that always fires each counter is the number of what there is to be counted."""
    monkeypatch.setattr(run, "micro_batches", partial(plan.micro_batches, most=most))
    scan = pyneurons.scan(
        model, documents(33), context=16, packing=packing, dtype="bfloat16", progress=False,
        flip_sample=0,
    )  # fmt: skip
    assert (scan.fires[:, ON] == scan.tokens).all()
    assert not scan.fires[:, OFF].any()
    assert (scan.bos_fires[:, ON] == scan.sequences).all()
    separators = scan.tokens - scan.corpus_tokens - scan.sequences
    assert (scan.separator_fires[:, ON] == separators).all()
    for domain, tokens in scan.domain_tokens.items():
        assert (scan.domain_fires[domain][:, ON] == tokens).all()
    for layer in scan.layers:
        assert (scan.position_fires(layer)[ON] == scan.full_sequences).all()
        for n in (1, 2, 3):
            offsets, count, number = scan._run.histogram(layer, n)
            own = slice(offsets[ON], offsets[ON + 1])
            occurrences, times = scan._run.spectrum(n)
            np.testing.assert_array_equal(count[own], occurrences)
            np.testing.assert_array_equal(number[own], times)
    for n in (1, 2, 3):
        assert (scan.ngram_fires(n)[:, ON] == scan.ngram_positions(n)).all()


def test_threads_and_budgets_give_the_same_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [
        {},
        {"residual": "file"},
        {"residual": "file", "mask": "file", "index": "file", "strip_words": 1},
    ]
    monkeypatch.setattr(run, "micro_batches", partial(plan.micro_batches, most=100))
    planned = Engine._plan
    found = []
    for number, (threads, place) in enumerate((t, p) for t in (1, 2, 3) for p in places):

        def smaller(self: Engine, *given: Any, place: dict[str, Any] = place) -> plan.Plan:
            return replace(planned(self, *given), **place)

        monkeypatch.setattr(Engine, "_plan", smaller)
        scan = pyneurons.scan(
            model, documents(33), context=16, dtype="bfloat16", flip_sample=60, progress=False,
            threads=threads, out=tmp_path / f"run-{number}",
        )  # fmt: skip
        assert {name: scan.manifest["plan"][name] for name in place} == place
        found.append(contents(scan.directory))
    assert all(one == found[0] for one in found)


def test_fifty_calls_on_two_threads_are_one() -> None:
    fires = inputs.bits(900, 1100)
    mask, order = inputs.wide_mask(fires), inputs.order(900, 900)
    segments = inputs.bounds(inputs.sorted_lengths(900))
    total = fires[order].sum(axis=0).astype(np.int64)
    n_large = int((np.diff(segments) > 9).sum())
    digests = set()
    for _ in range(50):
        outputs = [np.zeros((rows, 1100), np.int64) for rows in (len(segments) - 1, 10, n_large)]
        ops.segment_counts(mask, order, segments, outputs[0], threads=2)
        ops.ngram_coverage(mask, order, segments, total, *outputs[1:], threads=2)
        digests.add(hashlib.sha256(b"".join(one.tobytes() for one in outputs)).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("bits", [1, 8])
def test_keys_of_few_bits_never_mix_n_grams(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """17 bits a token and n = 4 are hashed; with a hash of 8 bits two n-grams soon have the same."""
    generator = np.random.default_rng(0)
    made = corpus.read(
        [generator.integers(4, 2**17, size=30).tolist() for _ in range(40)],
        None, context=31, vocab_size=2**17,
    )  # fmt: skip
    assert ngram_index.build(made, 4).rank.size == 40 * 27
    exact = ops.ngram_keys

    def few(*arguments: Any, **options: Any) -> None:
        exact(*arguments, **options)
        keys = arguments[5]
        keys[keys != ngram_index.NO_KEY] &= np.uint64(2**bits - 1)

    monkeypatch.setattr(ops, "ngram_keys", few)
    with pytest.raises(IntegrityError, match="differ and have the same 64-bit hash"):
        ngram_index.build(made, 4)


COUNTERS = ["fires", "bos_fires", "domain_fires", "partial_fires", "first_fire"]


@pytest.mark.parametrize("name", COUNTERS)
def test_a_counter_that_changes_on_its_way_stops_the_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One number of layer 1 is another between counting and writing: what a bad memory does."""
    observe, observed = FiringObserver.observe, [0]

    def changed(self: FiringObserver, *given: Any, **named: Any) -> dict[str, np.ndarray]:
        counted = observe(self, *given, **named)
        observed[0] += 1
        if observed[0] == 2:
            flat = counted[name].reshape(-1)
            flat[ON] = -1 if name == "first_fire" else flat[ON] ^ (1 << 20)
        return counted

    monkeypatch.setattr(FiringObserver, "observe", changed)
    options: dict[str, Any] = {"context": 16, "flip_sample": 0, "progress": False}
    options |= {"dtype": "bfloat16", "ngrams": (1,), "checkpoint_minutes": 0}
    out = tmp_path / "run"
    said = rf"layer 1, neuron {ON}: the counters contradict|fires\[{ON}\] leaves"
    with pytest.raises(IntegrityError, match=said):
        pyneurons.scan(model, documents(33), out=out, **options)
    there = standing(out, whole=True)
    assert there is not None
    assert there.done == [0]
    # The same command computes it again.
    again = pyneurons.scan(model, documents(33), out=out, **options)
    assert verify(again.directory).problems == []
    assert (again.fires[:, ON] == again.tokens).all()


@pytest.mark.parametrize(
    "field", ["torch", "numpy", "processor", "isa", "host_isa", "code", "pyneurons", "backend"]
)
def test_what_rounding_depends_on_is_part_of_what_a_run_is_of(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    options: dict[str, Any] = {"context": 16, "ngrams": (1,), "progress": False}
    options |= {"dtype": "float32", "checkpoint_minutes": 0, "out": tmp_path / "run"}
    failpoints.arm("layer=error@2")
    try:
        with pytest.raises(RuntimeError, match="failpoint layer"):
            pyneurons.scan(model, documents(9), **options)
    finally:
        failpoints.arm(None)
    numeric = identity.numeric

    def upgraded(*given: Any) -> dict[str, Any]:
        found = numeric(*given)
        assert found[field]
        return found | {field: "another"}

    monkeypatch.setattr(identity, "numeric", upgraded)
    with pytest.raises(InputError, match=rf"numeric\.{field}: .* there, .*another.* here"):
        pyneurons.scan(model, documents(9), **options)
