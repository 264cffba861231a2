"""The counting and n-gram engine from 0.1 to 5 million tokens, on the bits of one OPT-125m layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import alone
from interleaved import quartiles

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

# tokens: rounds
SIZES = {98_304: 3, 196_608: 3, 524_288: 3, 1_048_576: 3, 2_097_152: 2, 4_999_168: 2}
BUDGET = 2_000_000_000


@pytest.mark.parametrize("tokens", list(SIZES))
def bench_counting_scale(benchmark: BenchmarkFixture, tokens: int, *, small: bool) -> None:
    if small and tokens != min(SIZES):
        pytest.skip("one size is enough to see that it works")
    rounds = 1 if small else SIZES[tokens]
    tokens = 4 * alone.CONTEXT if small else tokens
    found = benchmark.pedantic(alone.run, args=("counting", tokens, rounds), rounds=1)
    assert found["tokens"] == tokens
    benchmark.extra_info["record"] = {
        "case": f"one layer of opt-125m, {tokens:,} tokens",
        "tokens": tokens,
        "rounds": rounds,
        "bits": found["bits"],
        "peak_resident_mb": round(found["peak_resident_bytes"] / 1e6),
        "held": found["peak_resident_bytes"] <= BUDGET,
        "ns_per_token": {
            threads: {
                stage: quartiles(np.array(seconds) / tokens * 1e9)
                for stage, seconds in stages.items()
            }
            for threads, stages in found["seconds"].items()
        },
    }
