"""The sources of the CUDA kernels, compiled by the host's compiler and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HELPERS = Path(__file__).parent
CSRC = HELPERS.parent.parent / "csrc"

_POINTER = ctypes.c_void_p
_LONG = ctypes.c_int64
_RESULTS = {
    "guards_broken": _LONG,
    "coverage": _LONG,
    "triggers": _LONG,
    "mixed": ctypes.c_uint64,
    "table_new": _POINTER,
    "table_capacity": ctypes.c_uint64,
    "table_sorted": _LONG,
    "table_add": ctypes.c_int,
    "table_add_lists": ctypes.c_int,
}


@functools.cache
def library() -> ctypes.CDLL:
    """Compile once per run of the tests."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler for the sources of the CUDA kernels")
    target = Path(tempfile.mkdtemp(prefix="cuda_on_host")) / "kernels.so"
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
    folders = [f"-I{CSRC / 'cuda'}", f"-I{CSRC / 'include'}"]
    source = HELPERS / "cuda_on_host.cpp"
    subprocess.run(
        [compiler, *flags, "-shared", "-fPIC", "-pthread", *folders, "-o", target, source],
        check=True,
    )
    loaded = ctypes.CDLL(str(target))
    for name, result in _RESULTS.items():
        getattr(loaded, name).restype = result
    shutil.rmtree(target.parent)
    return loaded


def address(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def _stride(array: Any) -> ctypes.c_int64:
    return _LONG(array.strides[0] // array.itemsize)


def _rows(mask: Any, order: Any, segments: Any) -> list[Any]:
    return [
        address(mask),
        _stride(mask),
        address(order),
        address(segments),
        _LONG(len(segments) - 1),
    ]


def segment_counts(
    mask: Any, order: Any, segments: Any, counts: Any, *, threads: int = 1, teams: int = 7
) -> None:
    name = {np.dtype(np.int64): "counts_i64", np.dtype(np.uint32): "counts_u32"}[counts.dtype]
    getattr(library(), name)(
        *_rows(mask, order, segments),
        _LONG(counts.shape[1]),
        address(counts),
        _stride(counts),
        ctypes.c_int(threads),
        _LONG(teams),
    )


def ngram_coverage(
    mask: Any,
    order: Any,
    segments: Any,
    fires: Any,
    histogram: Any,
    large: Any,
    *,
    longest: int = 4096,
    threads: int = 1,
    teams: int = 7,
) -> tuple[int, int] | None:
    found = _LONG()
    neuron = library().coverage(
        *_rows(mask, order, segments),
        address(fires),
        _LONG(histogram.shape[0] - 1),
        _LONG(histogram.shape[1]),
        address(histogram),
        _stride(histogram),
        address(large),
        _stride(large),
        _LONG(longest),
        ctypes.c_int(threads),
        _LONG(teams),
        ctypes.byref(found),
    )
    assert library().guards_broken() == 0
    return None if neuron < 0 else (neuron, found.value)


def ngram_triggers(
    mask: Any,
    order: Any,
    segments: Any,
    threshold: Any,
    offsets: Any,
    segment_of: Any,
    fires: Any,
    *,
    longest: int = 4096,
    threads: int = 1,
    teams: int = 7,
) -> tuple[int, int] | None:
    found = _LONG()
    neuron = library().triggers(
        *_rows(mask, order, segments),
        _LONG(len(threshold)),
        address(threshold),
        address(offsets),
        address(segment_of),
        address(fires),
        _LONG(longest),
        ctypes.c_int(threads),
        _LONG(teams),
        ctypes.byref(found),
    )
    assert library().guards_broken() == 0
    return None if neuron < 0 else (neuron, found.value)


class Full(Exception):
    """The table may not grow any more."""


class Table:
    """A `CountingTable` whose teams run on threads."""

    def __init__(self, capacity: int, most_slots: int, probes: int, threads: int = 4) -> None:
        unsigned = [ctypes.c_uint64(number) for number in (capacity, most_slots, probes)]
        self._table = ctypes.c_void_p(library().table_new(ctypes.c_int(threads), *unsigned))
        if not self._table.value:
            message = "refused"
            raise ValueError(message)

    def __del__(self) -> None:
        library().table_free(self._table)

    @property
    def capacity(self) -> int:
        return int(library().table_capacity(self._table))

    def add(self, keys: Any, counts: Any) -> None:
        status = library().table_add(self._table, address(keys), address(counts), _LONG(len(keys)))
        self._raise(status)

    def add_lists(self, offsets: Any, segment_of: Any, fires: Any, ngram_of: Any) -> None:
        status = library().table_add_lists(
            self._table,
            address(offsets),
            _LONG(len(offsets) - 1),
            address(segment_of),
            address(fires),
            address(ngram_of),
        )
        self._raise(status)

    def sorted(self) -> tuple[Any, Any]:
        keys = np.zeros(self.capacity, dtype=np.uint64)
        counts = np.zeros(self.capacity, dtype=np.uint64)
        number = library().table_sorted(self._table, address(keys), address(counts))
        assert library().guards_broken() == 0
        self._raise(-number if number < 0 else 0)
        return keys[:number], counts[:number]

    @staticmethod
    def _raise(status: int) -> None:
        if status == 1:
            raise Full
        if status == 2:
            message = "wrong, or lost"
            raise ValueError(message)
