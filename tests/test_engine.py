"""The engine: plans are held, and no bit depends on budget, threads or where things are kept."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import checkpoints
import pyneurons
from pyneurons import corpus
from pyneurons.corpus import ngram_index
from pyneurons.engine.counting import answers_of
from pyneurons.engine.index_file import IndexFiles
from pyneurons.engine.mask import FileMask, MemoryMask, StripShape
from pyneurons.engine.plan import SLACK_BYTES, Sizes, make_plan, micro_batches, parse_memory
from pyneurons.engine.residual import FileResidual, MemoryResidual
from pyneurons.engine.run import Engine
from pyneurons.engine.scratch import ScratchFile
from pyneurons.errors import InputError, NonFiniteError, ResourceError

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = checkpoints.BASE["vocab_size"]


def documents(seed: int, number: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [
        generator.integers(4, VOCABULARY, size=int(length)).tolist()
        for length in generator.integers(1, 60, size=number)
    ]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pre")
    checkpoints.make(directory, "pre", seed=3)
    return directory


def scan(checkpoint: Path, **options: Any) -> pyneurons.Scan:
    options = {"context": 24, "progress": False, "keep_bits": True, "flip_sample": 0} | options
    return pyneurons.scan(checkpoint, {"a": documents(1, 60), "b": documents(2, 40)}, **options)


def same(one: pyneurons.Scan, other: pyneurons.Scan) -> None:
    """Every stored array and every bit is equal."""
    for layer in one.layers:
        np.testing.assert_array_equal(one.bits(layer), other.bits(layer))
        np.testing.assert_array_equal(one.position_fires(layer), other.position_fires(layer))
        for n in (1, 2, 3):
            for a, b in zip(
                one._run.histogram(layer, n), other._run.histogram(layer, n), strict=True
            ):
                np.testing.assert_array_equal(a, b)
    for name in ("fires", "bos_fires", "first_fire", "z_max", "z_sup", "z_inf", "mi"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for table in ("neurons", "ngrams", "examples", "vocabulary", "suppression"):
        assert one._run.table(table).equals(other._run.table(table)), table


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_and_stores_change_no_bit(checkpoint: Path, dtype: str) -> None:
    plain = scan(checkpoint, dtype=dtype, threads=1)
    same(plain, scan(checkpoint, dtype=dtype, threads=2))
    same(plain, scan(checkpoint, dtype=dtype, threads=2, residual="file"))


@pytest.mark.parametrize("words", [1, 2, 32])
def test_bits_in_a_file_change_no_bit(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    plain = scan(checkpoint)
    stores = Engine._stores

    def narrow(self: Engine, directory: Path) -> Any:
        residual, mask = stores(self, directory)
        mask.close()
        shape = StripShape.of(self.config.ffn_dim, words)
        return residual, FileMask(self.corpus.tokens, shape, directory)

    monkeypatch.setattr(Engine, "_stores", narrow)
    same(plain, scan(checkpoint))


@pytest.mark.parametrize("when", ["built", "planned"])
def test_indices_in_files_change_nothing(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    plain = scan(checkpoint)
    assert plain.manifest["plan"]["index"] == "memory"
    read: list[int] = []
    load = IndexFiles.read

    def counted(self: IndexFiles, kept: Any) -> Any:
        read.append(kept.n)
        return load(self, kept)

    monkeypatch.setattr(IndexFiles, "read", counted)
    if when == "built":
        monkeypatch.setattr(Engine, "_index_memory", lambda *_: (0, "file"))
    else:
        plan = Engine._plan
        monkeypatch.setattr(Engine, "_plan", lambda self, *_: plan(self, 0, 0, "file"))
    filed = scan(checkpoint)
    assert filed.manifest["plan"]["index"] == "file"
    assert set(read) == {1, 2, 3}
    same(plain, filed)


def test_an_index_comes_back_from_its_file(tmp_path: Path) -> None:
    made = corpus.read(documents(5, 30), None, context=24, vocab_size=VOCABULARY)
    empty = corpus.read(np.array([[2, 2]]), None, context=2, vocab_size=10)
    indices = [ngram_index.build(made, n) for n in (1, 2, 3)] + [ngram_index.build(empty, 1)]
    files = IndexFiles(tmp_path)
    kept = [files.keep(index) for index in indices]
    for at in (0, 1, 2, 3, 2, 0, 0):
        back = kept[at].load()
        assert (back.n, kept[at].n) == (indices[at].n, indices[at].n)
        for name in ("order", "segments", "rank", "uncountable"):
            array, expected = getattr(back, name), getattr(indices[at], name)
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)
        for one, other in zip(kept[at].spectrum, indices[at].spectrum, strict=True):
            np.testing.assert_array_equal(one, other)
        assert kept[at].nbytes == indices[at].nbytes
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_indices_that_do_not_fit_together_are_kept_in_files(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place depends on what is free: all of them, the largest, or a refusal."""
    places: list[Any] = []
    chosen = Engine._index_memory

    def watched(self: Engine, resident: int) -> Any:
        tokens, vocab_size = self.corpus.tokens, self.corpus.vocab_size
        sizes = [ngram_index.index_bytes(tokens, n, vocab_size) for n in (1, 2, 3)]
        largest = max(kept + transient for kept, transient in sizes)
        for free in (sum(map(sum, sizes)), largest, largest - 1):
            settings = replace(self.settings, memory_bytes=free + resident + SLACK_BYTES)
            monkeypatch.setattr(self, "settings", settings)
            try:
                places.append(chosen(self, resident)[1])
            except ResourceError:
                places.append("refused")
        monkeypatch.setattr(self, "settings", replace(settings, memory_bytes=1 << 34))
        return chosen(self, resident)

    monkeypatch.setattr(Engine, "_index_memory", watched)
    scan(checkpoint)
    assert places == [None, "file", "refused"]


def test_a_sequence_keeps_its_bits_in_other_company(checkpoint: Path) -> None:
    alone = pyneurons.scan(
        checkpoint, [documents(1, 60)[5]], context=24, progress=False, keep_bits=True,
        packing="document",
    )  # fmt: skip
    among = pyneurons.scan(
        checkpoint, documents(1, 60), context=24, progress=False, keep_bits=True,
        packing="document",
    )  # fmt: skip
    first = int(sum(-(-len(d) // 23) + len(d) for d in documents(1, 60)[:5]))
    for layer in alone.layers:
        np.testing.assert_array_equal(
            alone.bits(layer), among.bits(layer)[first : first + alone.tokens]
        )


def test_layers_may_be_chosen(checkpoint: Path) -> None:
    every, last = scan(checkpoint), scan(checkpoint, layers=[1])
    assert last.layers == [1]
    np.testing.assert_array_equal(last.fires[0], every.fires[1])
    assert last.detectors(n=1).column("layer").to_pylist() == [
        layer for layer in every.detectors(n=1).column("layer").to_pylist() if layer == 1
    ]


def test_flips_are_reported(checkpoint: Path) -> None:
    coarse = scan(checkpoint, dtype="bfloat16", flip_sample=200)
    fine = scan(checkpoint, dtype="float32")
    flips = coarse.manifest["numeric"]["flips"]
    assert sorted(flips) == ["0", "1"]
    rows = int(coarse.starts[np.searchsorted(coarse.starts, 200, side="right") - 1])
    for row, layer in enumerate(coarse.layers):
        ours, truth = coarse.bits(layer)[:rows], fine.bits(layer)[:rows]
        said = flips[str(layer)]
        assert said["fires"] == truth.sum()
        assert said["gained"] == (ours & ~truth).sum()
        assert said["lost"] == (truth & ~ours).sum()
        gained = coarse._run.array("flips_gained")[row]
        np.testing.assert_array_equal(gained, (ours & ~truth).sum(axis=0))
        assert said["dead_gained"] == ((ours.sum(axis=0) == 0) & (truth.sum(axis=0) > 0)).sum()
    assert fine.manifest["numeric"]["flips"] == {}


def test_non_finite_values_stop_the_run(tmp_path: Path) -> None:
    model = checkpoints.build("pre", seed=3)
    model.model.decoder.layers[1].fc1.weight.data[5] = 3e38
    checkpoints.write_model(model, tmp_path)
    with pytest.raises(NonFiniteError, match="neuron"):
        scan(tmp_path)


def test_nothing_is_left_when_a_run_fails(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ResourceError, match="raise memory="):
        scan(checkpoint, memory="1MB", out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# ----- plan --------------------------------------------------------------------------------------


def sizes(**changed: int) -> Sizes:
    plain = {
        "rows": 1_000_000, "hidden": 768, "neurons": 3072, "threads": 2, "resident": 400 << 20,
        "embeddings": 80 << 20, "layer": 14 << 20, "updates": 14 << 20, "layer_converted": 14 << 20,
        "workspace": 60 << 20, "sample_rows": 0, "layer_float32": 28 << 20, "index_peak": 30 << 20,
        "index_kept": 20 << 20, "index_largest": 12 << 20, "orders": 8 << 20,
        "counters": 25 << 20, "strip_counters": 50 << 20, "projection": 200 << 20,
    }  # fmt: skip
    return Sizes(**(plain | changed))


def test_a_smaller_budget_moves_more_to_files() -> None:
    places = []
    for megabytes in (6000, 1600, 1270, 1160):
        plan = make_plan(sizes(), megabytes << 20)
        assert plan.predicted_peak_bytes <= megabytes << 20
        places.append((plan.residual, plan.mask, plan.index, plan.strip_words))
    assert places[0] == ("memory", "memory", "memory", 32)
    assert places[1] == ("file", "memory", "memory", 32)
    assert places[2] == ("file", "file", "memory", 32)
    assert places[3][:2] == ("file", "file")
    assert places[3][3] < 32
    with pytest.raises(ResourceError, match=r"at least [\d,]+ MB are needed"):
        make_plan(sizes(), 800 << 20)


def test_indices_go_to_files_before_anything_else_does() -> None:
    everything = make_plan(sizes(), 6000 << 20)
    just = everything.predicted_peak_bytes
    assert (everything.index, everything.ngrams_at_once) == ("memory", 2)
    assert make_plan(sizes(threads=1), 6000 << 20).ngrams_at_once == 1
    one = make_plan(sizes(), just - 1)
    assert (one.residual, one.mask, one.index) == ("memory", "memory", "memory")
    assert (one.ngrams_at_once, one.predicted_peak_bytes) == (1, just - (50 << 20))
    just -= 50 << 20
    less = make_plan(sizes(), just - 1)
    assert (less.residual, less.mask, less.index) == ("memory", "memory", "file")
    assert less.predicted_peak_bytes == just - (8 << 20)
    assert make_plan(sizes(), 6000 << 20, index="file").index == "file"


def test_a_place_that_is_asked_for_is_taken() -> None:
    assert make_plan(sizes(), 6000 << 20, residual="file").residual == "file"
    with pytest.raises(ResourceError):
        make_plan(sizes(), 1600 << 20, residual="memory")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5GB", 1_500_000_000), ("800MiB", 800 << 20), ("2g", 2 * 10**9), (4096, 4096), ("7", 7)],
)
def test_sizes_are_read(text: str | int, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["much", "-3GB", "0", "3XB", "GB", "nan"])
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="memory"):
        parse_memory(text)


def test_micro_batches() -> None:
    assert list(micro_batches([])) == []
    assert list(micro_batches([2048, 1, 2047, 1, 3000, 5])) == [
        (0, 1), (1, 3), (3, 4), (4, 5), (5, 6),
    ]  # fmt: skip


# ----- stores ------------------------------------------------------------------------------------


def test_residual_stores_agree(tmp_path: Path) -> None:
    import torch

    file = ScratchFile(tmp_path, 4 * 50 * 7, "residual stream")
    stores = [MemoryResidual(50, 7), FileResidual(50, 7, file)]
    values = torch.arange(350, dtype=torch.float32).reshape(50, 7)
    for store in stores:
        store.write(0, values[:20])
        store.write(20, values[20:])
        store.write(3, -values[3:5])
        assert store.read(2, 6).tolist() == [
            *values[2:3].tolist(), *(-values[3:5]).tolist(), *values[5:6].tolist(),
        ]  # fmt: skip
        rows = store.read(10, 12)  # in place or a copy
        rows.add_(1)
        store.write(10, rows)
        assert torch.equal(store.read(9, 13), values[9:13] + torch.tensor([[0], [1], [1], [0]]))
        store.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("neurons", [1, 31, 33, 1024, 1100])
def test_masks_agree(tmp_path: Path, neurons: int) -> None:
    shape = StripShape.of(neurons, 2)
    assert shape.range(shape.strips - 1)[1] == neurons
    words = np.random.default_rng(neurons).integers(
        0, 2**32, size=(shape.strips, 30, shape.strip_words), dtype=np.uint32
    )
    masks = [MemoryMask(30, shape), FileMask(30, shape, tmp_path)]
    for mask in masks:
        for start, stop in ((10, 30), (0, 10)):
            buffer = mask.buffer(start, stop)
            buffer[...] = words[:, start:stop]
            mask.commit(start, buffer)
        for strip in range(shape.strips):
            np.testing.assert_array_equal(mask.strip(strip), words[strip])
        mask.close()


MEMORY_PROGRAM = """
import sys, numpy as np, pyneurons
from pyneurons import _env
directory, rows = sys.argv[1], sys.argv[2]
few = np.full((2, 256), 7)
pyneurons.scan(directory, few, flip_sample=0, progress=False)  # loads the libraries
budget = _env.resident_bytes() + 270_000_000
scan = pyneurons.scan(
    directory, rows, memory=budget, ngrams=(1,), flip_sample=0, progress=False
)
plan = scan.manifest["plan"]
print(
    plan["residual"], budget, plan["predicted_peak_bytes"], _env.peak_resident_bytes(), scan.tokens
)
"""


def test_the_predicted_memory_is_held(tmp_path: Path) -> None:
    """A residual of about twice the budget goes to a file, and the peak stays below.

    The libraries' own memory, which differs between environments, is part of the budget.
    """
    hidden = 256
    checkpoints.make(
        tmp_path / "model", "pre", seed=3, hidden_size=hidden, word_embed_proj_dim=hidden,
        ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    generator = np.random.default_rng(5)
    rows = generator.integers(4, VOCABULARY, size=(6000, 256), dtype=np.int32)
    np.save(tmp_path / "rows.npy", rows)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            MEMORY_PROGRAM,
            tmp_path / "model",
            tmp_path / "rows.npy",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    place, *numbers = done.stdout.split()
    budget, predicted, peak, tokens = map(int, numbers)
    assert place == "file"
    assert tokens * hidden * 4 > 1.8 * budget
    assert peak <= predicted <= budget


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_answers_come_in_the_order_of_the_calls(at_once: int) -> None:
    working, most = [0], [0]
    lock = threading.Lock()

    def square(i: int) -> int:
        with lock:
            working[0] += 1
            most[0] = max(most[0], working[0])
        time.sleep(0.002 * (i % 3))
        with lock:
            working[0] -= 1
        if i == 100:
            raise ValueError(i)
        return i * i

    with ThreadPoolExecutor(4) as pool:
        work = [partial(square, i) for i in range(12)]
        assert answers_of(pool, work, at_once=at_once) == [i * i for i in range(12)]
        assert most[0] <= at_once
        assert answers_of(pool, [], at_once=at_once) == []
        with pytest.raises(ValueError, match="100"):
            answers_of(pool, [*work, partial(square, 100)], at_once=at_once)
