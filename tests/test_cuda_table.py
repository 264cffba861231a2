"""The way into the table keyed (neuron, n-gram); the table itself: test_counting_table.py.

The kernels behind it are the same sources on the host, on tensors of the CPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections import Counter

import numpy as np
import pytest
import torch

import cuda_on_host
import inputs
from pyneurons import ops, reference
from pyneurons.backends import cuda_table
from pyneurons.backends.cuda_table import CountingTable
from pyneurons.errors import (
    BackendUnavailable,
    DTypeError,
    IntegrityError,
    ResourceError,
    ShapeError,
)


def array_at(view, dtype):
    address, rows, columns, _ = view
    assert rows == 1
    memory = (ctypes.c_char * (columns * np.dtype(dtype).itemsize)).from_address(address)
    return np.frombuffer(memory, dtype=dtype) if columns else np.zeros(0, dtype=dtype)


class KernelsOnHost:
    TableFull = cuda_on_host.Full

    class LostCounts(Exception):
        pass

    class PairCounts:
        def __init__(self, capacity, most_slots, probes, stream):
            assert stream == 0
            self._table = cuda_on_host.Table(capacity, most_slots, probes)

        @property
        def capacity(self):
            return self._table.capacity

        def add(self, keys, counts):
            self._table.add(array_at(keys, np.uint64), array_at(counts, np.uint64))

        def add_lists(self, offsets, segment_of, fires, ngram_of):
            self._table.add_lists(
                array_at(offsets, np.int64),
                array_at(segment_of, np.int32),
                array_at(fires, np.int64),
                array_at(ngram_of, np.uint64),
            )

        def sort(self):
            self._sorted = self._table.sorted()
            return len(self._sorted[0])

        def sorted(self, keys, counts):
            for view, values in zip((keys, counts), self._sorted, strict=True):
                array_at(view, np.uint64)[:] = values


class OnHost(CountingTable):
    def __init__(self, capacity, most_slots, probes=16):
        self._kernels, self._device = KernelsOnHost, torch.device("cpu")
        self._make(capacity, most_slots, probes, 0)


def entries(table):
    return list(zip(*(part.tolist() for part in table.sorted()), strict=True))


@pytest.mark.parametrize("tensors", [False, True])
def test_lists_of_parts_of_a_corpus_add_up(tensors):
    table, truth, neurons = OnHost(64, 2**20), Counter(), 70
    for part in range(2):
        ids, starts = inputs.corpus(400, seed=part)
        rows = inputs.ngram_rows(ids, starts, 3)
        grams, order, segments = inputs.ngram_segments(rows)
        fires = inputs.bits(400, neurons, seed=part)
        mask, counts = reference.pack(fires), np.zeros((len(grams), neurons), dtype=np.int64)
        ops.segment_counts(mask, order, segments, counts)
        threshold = np.ones(neurons, dtype=np.int64)
        offsets = inputs.bounds((counts >= 1).sum(axis=0))
        segment_of = np.zeros(offsets[-1], dtype=np.int32)
        found = np.zeros(offsets[-1], dtype=np.int64)
        ops.ngram_triggers(mask, order, segments, threshold, offsets, segment_of, found)
        numbers = [a << 32 | b << 16 | c for a, b, c in grams]
        lists = [offsets, segment_of, found, np.array(numbers, dtype=np.uint64)]
        if tensors:
            lists = [torch.from_numpy(one.view(f"i{one.itemsize}")) for one in lists]
        table.add_lists(*lists)
        for segment, neuron in zip(*np.nonzero(counts), strict=True):
            truth[int(neuron), numbers[segment]] += int(counts[segment, neuron])
    assert entries(table) == sorted((*key, count) for key, count in truth.items())
    assert table.capacity > 64


def test_the_last_neuron_and_n_gram_that_have_a_key():
    """Their keys are past 2**63, where signed integers are below 0."""
    table = OnHost(16, 16)
    key = np.array([65_534 << 48 | (2**48 - 1), 5, 36_863 << 48, 2**64 - 1], dtype=np.uint64)
    table.add(key, np.array([3, 2**40, 7, 9]))
    table.add(torch.from_numpy(key.view(np.int64)), torch.tensor([1, 1, 1, 1]))
    assert entries(table) == [(0, 5, 2**40 + 1), (36_863, 0, 8), (65_534, 2**48 - 1, 4)]


def test_a_full_table_is_an_error():
    table = OnHost(4, 4, 4)
    table.add(np.arange(4), np.ones(4, dtype=np.int64))
    for use in (lambda: table.add(np.array([9]), np.ones(1, dtype=np.int64)), table.sorted):
        with pytest.raises(ResourceError):
            use()
    with pytest.raises(ShapeError):
        OnHost(3, 4)


def test_lost_counts_are_an_error():
    table = OnHost(4, 4)

    def lose():
        raise KernelsOnHost.LostCounts

    table._table.sort = lose
    with pytest.raises(IntegrityError):
        table.sorted()


def i64(*values):
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("offsets", i64(), ShapeError),
        ("offsets", i64(1, 1, 2), ShapeError),
        ("offsets", i64(0, 1, 3), ShapeError),
        ("offsets", i64(0, 3, 2), ShapeError),
        ("fires", i64(1), ShapeError),
        ("fires", np.ones((2, 1), np.int64), ShapeError),
        ("segment_of", np.array([0, 3], np.int32), ShapeError),
        ("segment_of", np.array([0, -1], np.int32), ShapeError),
        ("segment_of", i64(0, 1), DTypeError),
        ("ngram_of", np.array([1.0, 2.0, 3.0]), DTypeError),
        ("ngram_of", [1, 2, 3], DTypeError),
        ("ngram_of", torch.ones(3), DTypeError),
        ("ngram_of", i64(1, 2**48, 3), ShapeError),
    ],
)
def test_lists_that_cannot_be(name, value, error):
    table = OnHost(16, 16)
    lists = {
        "offsets": i64(0, 1, 2),
        "segment_of": np.array([0, 1], np.int32),
        "fires": i64(4, 5),
        "ngram_of": i64(8, 9, 10),
    }
    with pytest.raises(error, match=r"counting table|wrong"):
        table.add_lists(**lists | {name: value})
    assert entries(table) == []
    table.add_lists(**lists)
    assert entries(table) == [(0, 8, 4), (1, 9, 5)]
    with pytest.raises(ShapeError, match="2 keys have 1 counts"):
        table.add(i64(1, 2), i64(1))


@pytest.mark.skipif(
    importlib.util.find_spec("pyneurons._cuda") is not None, reason="this build has CUDA kernels"
)
def test_without_kernels_there_is_no_table():
    with pytest.raises(BackendUnavailable, match="no CUDA kernels"):
        cuda_table.CountingTable()
