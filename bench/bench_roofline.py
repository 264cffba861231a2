"""The machine's own ceilings (`roofline`), for the table that everything else is a share of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from interleaved import quartiles
from roofline import MEMORY_BYTES, ceilings, gemm, on, why_no_amx

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

ROUNDS = 15
CACHE_BYTES = {"L1": 16 << 10, "L2": 1 << 20}


def measure(
    benchmark: BenchmarkFixture, what: str, unit: str, scale: float, rate: Callable[[], float]
) -> None:
    """Take the rate several times; a ceiling times itself."""
    rates: list[float] = []
    benchmark.pedantic(lambda: rates.append(rate()), rounds=ROUNDS)
    assert min(rates) > 0
    benchmark.extra_info["record"] = {
        "case": what,
        "unit": unit,
        "rounds": len(rates),
        "rate": quartiles(np.array(rates) / scale),
    }


@pytest.mark.parametrize("threads", [1, 2])
def bench_amx(benchmark: BenchmarkFixture, threads: int) -> None:
    if (reason := why_no_amx()) is not None:
        pytest.skip(f"no peak of AMX: {reason}")
    what = f"AMX, random bfloat16 from L1, {on(threads)}"
    measure(benchmark, what, "TFLOP/s", 1e12, lambda: ceilings().amx(threads) or 0)


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 4096), (torch.float32, 2048)])
def bench_gemm(
    benchmark: BenchmarkFixture, dtype: torch.dtype, size: int, cores: int, *, small: bool
) -> None:
    kind = str(dtype).removeprefix("torch.")
    size = 128 if small else size
    what = f"torch {kind}, {size} x {size} x {size}, {on(cores)}"
    measure(benchmark, what, "TFLOP/s", 1e12, lambda: gemm(dtype, size))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("place", ["L1", "L2", "memory"])
def bench_reading(benchmark: BenchmarkFixture, place: str, threads: int, *, small: bool) -> None:
    if ceilings().library is None:
        pytest.skip(f"no reading rate: {ceilings().why_not}")
    size = threads * CACHE_BYTES[place] if place in CACHE_BYTES else MEMORY_BYTES
    data = np.ones((1 << 20 if small else size) // 8)
    what = f"reading {data.nbytes >> 10:,} KiB ({place}), {on(threads)}"
    measure(benchmark, what, "GB/s", 1e9, lambda: ceilings().read(data, threads) or 0)
