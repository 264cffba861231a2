"""Inputs of the tests of the ops: masks, corpora, lattices, arrays with guards around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyneurons import reference

# One strip less and more than a word, a vector of every instruction set, a strip.
NEURONS = (1, 31, 32, 33, 63, 64, 65, 100, 257, 1024, 1100)

# Counters start one before a narrower type would stop (float32, int32, uint32), and where int64 nearly does.
STARTS = (0, 2**24 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1000)


def bits(rows: int, neurons: int, seed: int = 0, density: float | None = None) -> Any:
    """Who fires: neurons from dead to always on, unless a density is given; bool [rows, neurons]."""
    random = np.random.default_rng((seed, rows, neurons))
    share = random.random(neurons) ** 3 if density is None else np.full(neurons, density)
    if density is None:
        share[random.random(neurons) < 0.15] = 0.0
        share[random.random(neurons) < 0.05] = 1.0
    return random.random((rows, neurons)) < share


def wide_mask(fires: npt.NDArray[np.bool_], extra: int = 3) -> Any:
    """The mask of `fires`, its rows `extra` words apart in a buffer whose other bits are all set."""
    packed = reference.pack(fires)
    rows, words = packed.shape
    buffer = np.full((rows, words + extra), 0xFFFFFFFF, dtype=np.uint32)
    buffer[:, :words] = packed
    return buffer[:, :words]


def order(rows: int, length: int, seed: int = 0) -> Any:
    """Rows to visit, some several times, some never; int32 [length]."""
    if rows == 0:
        return np.zeros(0, dtype=np.int32)
    return np.random.default_rng((seed, 1)).integers(0, rows, length).astype(np.int32)


def bounds(lengths: npt.ArrayLike) -> Any:
    """Bounds of consecutive pieces of these lengths; int64 [pieces + 1]."""
    lengths = np.asarray(lengths, dtype=np.int64)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def sorted_lengths(total: int, seed: int = 0) -> Any:
    """Lengths that do not decrease and sum to `total`: many short, few long."""
    random = np.random.default_rng((seed, 2))
    lengths: list[int] = []
    left = total
    while left > 0:
        wanted = int(random.zipf(1.6)) if random.random() < 0.9 else int(random.integers(10, 90))
        lengths.append(min(left, wanted))
        left -= lengths[-1]
    return np.sort(np.array(lengths, dtype=np.int64))


def corpus(tokens: int, vocabulary: int = 60, boundary: int = 2, seed: int = 0) -> Any:
    """Zipf-like ids in sequences of uneven length that begin with the boundary: ids, starts."""
    random = np.random.default_rng((seed, 3))
    ids = np.minimum(random.zipf(1.3, tokens) + 2, vocabulary - 1).astype(np.uint16)
    cuts = np.unique(random.integers(1, tokens, max(1, tokens // 50)))
    starts = np.concatenate([[0], cuts, [tokens]]).astype(np.int64)
    ids[starts[:-1]] = boundary
    ids[random.random(tokens) < 0.02] = boundary
    return ids, starts


def ngram_rows(
    ids: Any, starts: Any, n: int, boundary: int = 2
) -> dict[tuple[int, ...], list[int]]:
    """The rows on which each countable n-gram ends, by plain loops."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        for row in range(start + n - 1, stop):
            gram = tuple(ids[row - n + 1 : row + 1].tolist())
            if boundary not in gram:
                rows.setdefault(gram, []).append(row)
    return rows


def ngram_segments(rows: dict[tuple[int, ...], list[int]]) -> Any:
    """The n-grams by ascending occurrences, then first row: n-grams, order, segments."""
    grams = sorted(rows, key=lambda gram: (len(rows[gram]), rows[gram][0]))
    flat = [row for gram in grams for row in rows[gram]]
    return grams, np.array(flat, dtype=np.int32), bounds([len(rows[gram]) for gram in grams])


def lattice(shape: tuple[int, ...], seed: int, most: int = 3) -> Any:
    """Small integers in float32: sums are exact in any order, and often 0."""
    random = np.random.default_rng((seed, *shape))
    return random.integers(-most, most + 1, shape).astype(np.float32)


class Guarded:
    """An array inside a larger buffer, so that a write beside it is seen."""

    _SENTINEL = 0x5A

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, value: Any) -> None:
        margins = [length + 4 for length in shape]
        self._buffer = np.zeros(margins, dtype=dtype)
        self._buffer.view(np.uint8)[...] = self._SENTINEL
        self._inner = tuple(slice(2, 2 + length) for length in shape)
        self.view: Any = self._buffer[self._inner]
        self.view[...] = value

    def intact(self) -> bool:
        """Whether nothing but the view was written."""
        untouched = np.ones(self._buffer.shape, dtype=bool)
        untouched[self._inner] = False
        around = np.ascontiguousarray(self._buffer[untouched]).view(np.uint8)
        return bool(np.all(around == self._SENTINEL))


def sums(backend: str):
    """The order in which a backend adds products of bfloat16."""
    return reference.chained_sum if backend == "cpp:avx512bf16" else reference.paired_sum
