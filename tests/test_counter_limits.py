"""Counters at the ends of their types: exact up to the last number, refused beyond it, never wrapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import checkpoints
import inputs
import pyneurons
from pyneurons import durable, ops, reference
from pyneurons._verify import verify
from pyneurons.conservation import broken_laws
from pyneurons.errors import IntegrityError
from pyneurons.result import narrowest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.also_on("triton")

ROWS = 40
DTYPES = [np.uint8, np.uint16, np.uint32, np.int64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_counter_reaches_the_last_number_and_not_beyond(
    backend: str, dtype: type[np.generic]
) -> None:
    fires = inputs.bits(ROWS, 65)
    fires[:, 7] = True
    mask, segments = reference.pack(fires), inputs.bounds([ROWS])
    most = int(np.iinfo(dtype).max)
    counts = np.full((1, 65), most - ROWS, dtype=dtype)
    ops.segment_counts(mask, None, segments, counts, backend=backend)
    assert int(counts[0, 7]) == most
    np.testing.assert_array_equal(counts[0] - dtype(most - ROWS), fires.sum(axis=0))
    counts = np.zeros((1, 65), dtype=dtype)
    counts[0, 3] = most - ROWS + 1
    before = counts.copy()
    with pytest.raises(IntegrityError, match=f"counts holds {most - ROWS + 1}, and 40 rows"):
        ops.segment_counts(mask, None, segments, counts, backend=backend)
    np.testing.assert_array_equal(counts, before)


@pytest.mark.parametrize("full", ["histogram", "large"])
def test_histograms_and_long_segments_likewise(backend: str, full: str) -> None:
    fires = inputs.bits(ROWS, 33)
    segments = inputs.bounds([1, 1, 2, 2, 3, 31])
    room = np.iinfo(np.int64).max - ROWS
    outputs = {
        "histogram": np.full((4, 33), room, dtype=np.int64),
        "large": np.full((1, 33), room, dtype=np.int64),
    }
    given = (reference.pack(fires), None, segments, fires.sum(axis=0).astype(np.int64))
    ops.ngram_coverage(*given, **outputs, backend=backend)
    np.testing.assert_array_equal(outputs["large"][0] - room, fires[9:].sum(axis=0))
    by_count = outputs["histogram"] - room
    counted = (by_count * np.arange(4)[:, None]).sum(axis=0)
    np.testing.assert_array_equal(counted, fires[:9].sum(axis=0))

    for array in outputs.values():
        array[...] = 0
    outputs[full][-1, 5] = room + 1
    before = {name: array.copy() for name, array in outputs.items()}
    with pytest.raises(IntegrityError, match=f"{full} holds {room + 1}, and 40 rows"):
        ops.ngram_coverage(*given, **outputs, backend=backend)
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("top", [2**8 - 1, 2**16 - 1, 2**24, 2**31, 2**32 - 1, 2**32, 2**63 - 1])
def test_what_is_stored_is_narrow_and_the_same(top: int) -> None:
    values = np.array([0, 1, top], dtype=np.int64)
    stored = narrowest(values)
    assert stored.dtype.itemsize == next(size for size in (1, 2, 4, 8) if top < 2 ** (8 * size))
    assert [int(value) for value in stored] == [0, 1, top]


@pytest.mark.parametrize("value", [-1, -(2**63), 2**63, 2**64 - 1])
def test_what_has_wrapped_is_not_stored(value: int) -> None:
    dtype = np.uint64 if value > 0 else np.int64
    with pytest.raises(IntegrityError, match="a counter is"):
        narrowest(np.array([3, value], dtype=dtype))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits")
    checkpoints.make(folder / "model", "pre", seed=3)
    documents = np.random.default_rng(0).integers(4, 90, size=(8, 24)).tolist()
    pyneurons.scan(
        folder / "model", documents, context=24, ngrams=(1,), progress=False, out=folder / "run"
    )
    return folder / "run"


@pytest.fixture
def changed(run: Path, tmp_path: Path) -> Any:
    """A copy of a run, one array of layer 1 or of the corpus changed, under checksums that are right."""

    def change(name: str, value: Any, file: str = "counts-001.safetensors") -> Path:
        copy = pyneurons.load(run).save(tmp_path / "copy")
        arrays = load_file(copy / file)
        arrays[name] = arrays[name].astype(np.uint64)
        arrays[name].reshape(-1)[: np.size(value)] = value
        sums = (copy / "SHA256SUMS").read_text()
        before = durable.sha256_of(copy / file)
        save_file(arrays, copy / file)
        (copy / "SHA256SUMS").write_text(sums.replace(before, durable.sha256_of(copy / file)))
        return copy

    return change


@pytest.mark.parametrize("value", [2**63, 2**64 - 1])
def test_numbers_from_the_disk_do_not_become_negative(changed: Any, value: int) -> None:
    copy = changed("fires", value)
    with pytest.raises(IntegrityError, match=rf"counts-001.*'fires' is {value}"):
        _ = pyneurons.load(copy).fires
    assert any(str(value) in problem for problem in verify(copy).problems)


def test_the_spectrum_does_not_either(changed: Any) -> None:
    copy = changed("spectrum_1_number", 2**63, "corpus.safetensors")
    with pytest.raises(IntegrityError, match="spectrum_1_number"):
        pyneurons.load(copy)._run.spectrum(1)


def test_sums_that_wrap_to_the_right_number_are_noticed(run: Path) -> None:
    """2**62 four times is nothing in 64 bits: every sum agrees, and still it is wrong."""
    loaded = pyneurons.load(run)._run
    names = ["fires", "bos_fires", "separator_fires", "domain_fires", "partial_fires"]
    names += ["first_fire", "position_fires", "z_max", "provably_dead", "provably_on"]
    arrays = {name: loaded.layer_array(1, name).copy() for name in names}
    (offsets, count, number), total = loaded.histogram(1, 1), loaded.layer_array(1, "ngram_fires_1")
    tokens = int(loaded.corpus_array("ids").size)

    def laws() -> list[str]:
        return list(broken_laws(arrays, {1: ((offsets, count, number), total)}, tokens))

    assert laws() == []
    arrays["position_fires"][0, :4, 9] += 2**62
    assert laws() == ["no counter is above the positions run"]
    arrays["position_fires"][0, :4, 9] -= 2**62
    end = int(offsets[10])
    offsets[10:] += 1
    count, number = np.insert(count, end, 2**62), np.insert(number, end, 4)
    assert laws() == ["no 1-grams have more fires than positions were run"]
