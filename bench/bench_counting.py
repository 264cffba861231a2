"""The counting ops at OPT-125m's shape: answer first, then time (`make bench`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pyneurons import backends, ops

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

ROWS, NEURONS = 65_536, 1024
CPP = [name for name in backends.available() if name.startswith("cpp:")]


@pytest.fixture(scope="module")
def bits() -> np.ndarray:
    """Bits of which 1 in 16 is set: the and of four random words."""
    generator = np.random.default_rng(0)
    words = generator.integers(0, 2**32, size=(4, ROWS, NEURONS // 32), dtype=np.uint32)
    return np.bitwise_and.reduce(words)


def segments_of_zipf(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows by token, tokens by ascending occurrence, as the n-gram index has them."""
    generator = np.random.default_rng(seed)
    chance = 1 / np.arange(1, 20_001)
    tokens = generator.choice(20_000, size=ROWS, p=chance / chance.sum())
    occurrences = np.bincount(tokens, minlength=20_000)
    rank = np.empty(20_000, dtype=np.int64)
    rank[np.argsort(occurrences, kind="stable")] = np.arange(20_000)
    order = np.argsort(rank[tokens], kind="stable").astype(np.int32)
    sizes = np.sort(occurrences[occurrences > 0])
    return order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def record(benchmark: BenchmarkFixture, size: int) -> None:
    """Keep bytes and GB/s beside the times."""
    benchmark.extra_info["bytes"] = size
    if benchmark.stats is not None:
        benchmark.extra_info["gb_per_s"] = size / benchmark.stats.stats.median / 1e9


@pytest.mark.parametrize("backend", CPP)
@pytest.mark.parametrize("permuted", [False, True], ids=["in-order", "permuted"])
def bench_segment_counts(
    benchmark: BenchmarkFixture, bits: np.ndarray, backend: str, permuted: bool
) -> None:
    order = np.random.default_rng(1).permutation(ROWS).astype(np.int32) if permuted else None
    segments = np.array([0, ROWS], dtype=np.int64)
    expected = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little").sum(axis=0)
    counts = np.zeros((1, NEURONS), dtype=np.int64)
    ops.segment_counts(bits, order, segments, counts, backend=backend)
    np.testing.assert_array_equal(counts[0], expected)
    benchmark(ops.segment_counts, bits, order, segments, counts, backend=backend)
    record(benchmark, bits.nbytes)


@pytest.mark.parametrize("backend", CPP)
def bench_ngram_coverage(benchmark: BenchmarkFixture, bits: np.ndarray, backend: str) -> None:
    order, segments = segments_of_zipf()
    fires = np.zeros((1, NEURONS), dtype=np.int64)
    ops.segment_counts(bits, None, np.array([0, ROWS], dtype=np.int64), fires, backend=backend)
    lengths = np.diff(segments)
    bins = 256
    arguments: dict[str, Any] = {
        "mask": bits,
        "order": order,
        "segments": segments,
        "fires": fires[0],
        "histogram": np.zeros((bins + 1, NEURONS), dtype=np.int64),
        "large": np.zeros((int((lengths > bins).sum()), NEURONS), dtype=np.int64),
    }
    ops.ngram_coverage(**arguments, backend=backend)
    held = arguments["histogram"] * np.arange(bins + 1)[:, None]
    total = held.sum(axis=0) + arguments["large"].sum(axis=0)
    np.testing.assert_array_equal(total, fires[0])
    benchmark(ops.ngram_coverage, **arguments, backend=backend)
    record(benchmark, bits.nbytes)
