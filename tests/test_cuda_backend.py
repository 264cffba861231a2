"""The launcher of the CUDA kernels: refusals with their reason, and its way with arrays.

The kernels behind it are the same sources on the host, on tensors of the CPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cuda_on_host
import inputs
from elsewhere import as_device, elsewhere
from pyneurons import backends, ops, reference
from pyneurons.backends import cuda
from pyneurons.errors import BackendUnavailable, IntegrityError


def array_at(view, dtype):
    """The array at an address, as the kernels would see it."""
    address, rows, columns, row_stride = view
    assert row_stride >= columns or rows < 2
    size = rows * row_stride * np.dtype(dtype).itemsize
    memory = (ctypes.c_char * size).from_address(address) if size else b""
    whole = np.frombuffer(memory, dtype=dtype, count=rows * row_stride)
    return whole.reshape(rows, row_stride)[:, :columns]


def rows_at(mask, order, segments):
    return (
        array_at(mask, np.uint32),
        None if order is None else array_at(order, np.int32)[0],
        array_at(segments, np.int64)[0],
    )


class KernelsOnHost:
    """What `_cuda` offers, by the sources of its kernels on the host."""

    @staticmethod
    def segment_counts(mask, order, segments, on_host, counts, stream):
        assert (stream, len(on_host)) == (0, segments[2])
        cuda_on_host.segment_counts(*rows_at(mask, order, segments), array_at(counts, np.int64))

    @staticmethod
    def ngram_coverage(mask, order, segments, on_host, fires, histogram, large, stream):
        assert (stream, len(on_host)) == (0, segments[2])
        return cuda_on_host.ngram_coverage(
            *rows_at(mask, order, segments),
            array_at(fires, np.int64)[0],
            array_at(histogram, np.int64),
            array_at(large, np.int64),
        )

    @staticmethod
    def ngram_triggers(
        mask, order, segments, on_host, threshold, offsets, segment_of, fires, stream
    ):
        assert (stream, len(on_host)) == (0, segments[2])
        return cuda_on_host.ngram_triggers(
            *rows_at(mask, order, segments),
            array_at(threshold, np.int64)[0],
            array_at(offsets, np.int64)[0],
            array_at(segment_of, np.int32)[0],
            array_at(fires, np.int64)[0],
        )


COUNTING = frozenset({"segment_counts", "ngram_coverage", "ngram_triggers"})


@pytest.fixture(params=["arrays", "tensors"])
def given(request, monkeypatch):
    """What the ops take arrays as, with the launcher in place of the backend ``cpp``."""
    launcher = cuda._Ops(KernelsOnHost, torch.device("cpu"))
    backend = replace(
        backends.resolve("cpp"), **{name: getattr(launcher, name) for name in COUNTING}
    )
    if request.param == "tensors":
        backend = as_device(backend, COUNTING, [])
    monkeypatch.setattr(backends, "resolve", lambda _name=None: backend)
    return elsewhere if request.param == "tensors" else lambda array: array


@pytest.fixture
def empty_registry():
    backends._load.cache_clear()
    yield
    backends._load.cache_clear()


@pytest.mark.usefixtures("empty_registry")
def test_what_is_not_built_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyneurons._cuda", None)
    with pytest.raises(BackendUnavailable, match=r"no CUDA kernels \(PYNEURONS_CUDA is off\)"):
        backends.resolve("cuda")
    assert "cuda" not in backends.available()


@pytest.mark.usefixtures("empty_registry")
@pytest.mark.parametrize(
    ("found", "reason"),
    [((0, "no driver"), r"no CUDA device is visible \(no driver\)"), ((0, ""), "none is there")],
)
def test_a_machine_without_a_device_is_refused(monkeypatch, found, reason):
    monkeypatch.setitem(sys.modules, "pyneurons._cuda", SimpleNamespace(devices=lambda: found))
    with pytest.raises(BackendUnavailable, match=reason):
        backends.resolve("cuda")


@pytest.mark.usefixtures("empty_registry")
def test_a_torch_without_cuda_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyneurons._cuda", SimpleNamespace(devices=lambda: (1, "")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="does not use CUDA devices"):
        backends.resolve("cuda")


@pytest.mark.usefixtures("empty_registry")
@pytest.mark.parametrize("triton_is_there", [True, False])
def test_who_computes_what(monkeypatch, triton_is_there):
    """Counting here, the rest by Triton where it is; what that has not, in C++ on the host."""
    monkeypatch.setitem(sys.modules, "pyneurons._cuda", SimpleNamespace(devices=lambda: (1, "")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if not triton_is_there:
        monkeypatch.setitem(sys.modules, "triton", None)
    loaded = backends.resolve("cuda")

    def of(name, other):
        mine, its = (getattr(one, name).__func__ for one in (loaded, backends.resolve(other)))
        return mine is its

    assert (loaded.name, loaded.device) == ("cuda", "cuda")
    for name in COUNTING:
        assert getattr(loaded, name).__self__.kernels is sys.modules["pyneurons._cuda"]
    for name in ("layer_norm", "attention", "linear"):
        assert of(name, "cpp")
    rest = {"ffn", "firing_rows", "first_segments", "ngram_keys"}
    for name in rest:
        assert of(name, "triton" if triton_is_there else "cpp")
    assert loaded.on_device == COUNTING | (rest if triton_is_there else set())
    assert loaded.float16 == triton_is_there


@pytest.mark.skipif(
    importlib.util.find_spec("pyneurons._cuda") is not None, reason="this build has CUDA kernels"
)
@pytest.mark.usefixtures("empty_registry")
def test_asked_for_by_name_and_absent_is_an_error():
    with pytest.raises(BackendUnavailable, match="'cuda'"):
        ops.segment_counts(
            np.zeros((1, 1), np.uint32),
            None,
            inputs.bounds([1]),
            np.zeros((1, 1), np.int64),
            backend="cuda",
        )


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("shuffled", [False, True])
def test_segment_counts(given, dtype, shuffled):
    mask = inputs.wide_mask(inputs.bits(100, 70))
    order = inputs.order(100, 100) if shuffled else None
    segments = inputs.bounds([0, 1, 30, 69])
    got = inputs.Guarded((4, 70), dtype, 3)
    expected = got.view.copy()
    reference.segment_counts(mask, order, segments, expected)
    ops.segment_counts(given(mask), order, segments, given(got.view))
    assert got.intact()
    assert np.array_equal(got.view, expected)


@pytest.mark.parametrize("bins", [3, 40])
def test_ngram_coverage(given, bins):
    fires = inputs.bits(100, 70)
    order = inputs.order(100, 300)
    segments = inputs.bounds(inputs.sorted_lengths(300))
    totals = fires[order].sum(axis=0)
    n_large = int(np.count_nonzero(np.diff(segments) > bins))
    mask = inputs.wide_mask(fires)
    histogram, expected = np.full((2, bins + 1, 70), 5, dtype=np.int64)
    large, expected_large = np.full((2, n_large, 70), 6, dtype=np.int64)
    reference.ngram_coverage(mask, order, segments, totals, expected, expected_large)
    outputs = given(histogram), given(large)
    ops.ngram_coverage(given(mask), order, segments, given(totals), *outputs)
    assert np.array_equal(histogram, expected)
    assert np.array_equal(large, expected_large)
    totals[69] += 1000
    with pytest.raises(IntegrityError, match=r"fires\[69\] leaves"):
        ops.ngram_coverage(given(mask), order, segments, given(totals), *outputs)
    assert np.array_equal(histogram, expected)


def test_ngram_triggers(given):
    mask = inputs.wide_mask(inputs.bits(100, 70))
    order = inputs.order(100, 300)
    segments = inputs.bounds(inputs.sorted_lengths(300))
    counts = np.zeros((len(segments) - 1, 70), dtype=np.int64)
    reference.segment_counts(mask, order, segments, counts)
    threshold = np.random.default_rng(3).choice([1, 2, 4, 17], 70)
    offsets = inputs.bounds((counts >= threshold).sum(axis=0))
    segment_of, expected_of = np.full((2, offsets[-1]), -1, dtype=np.int32)
    fires, expected = np.full((2, offsets[-1]), -1, dtype=np.int64)
    reference.ngram_triggers(mask, order, segments, threshold, offsets, expected_of, expected)
    outputs = given(segment_of), given(fires)
    ops.ngram_triggers(given(mask), order, segments, threshold, offsets, *outputs)
    assert np.array_equal(segment_of, expected_of)
    assert np.array_equal(fires, expected)
    last = int(np.flatnonzero(np.diff(offsets))[-1])
    offsets[last + 1 :] -= 1
    outputs = given(segment_of[1:]), given(fires[1:])
    with pytest.raises(IntegrityError, match=f"neuron {last} has"):
        ops.ngram_triggers(given(mask), order, segments, threshold, offsets, *outputs)
    assert np.array_equal(fires, expected)
