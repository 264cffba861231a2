"""Whole scans of more and more tokens within 2 GB, each alone in its process: time and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import alone
from side_by_side import by_stage

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = (262_144, 1_048_576)
"""Beside the 131,072 tokens of `bench_scan`, whose budget is larger."""

MEMORY, BUDGET = "2GB", 2_000_000_000


@pytest.mark.parametrize("tokens", SIZES)
def bench_scan_scale(
    benchmark: BenchmarkFixture, checkpoint: Path, tokens: int, *, small: bool
) -> None:
    if small and tokens != min(SIZES):
        pytest.skip("one size is enough to see that it works")
    found = benchmark.pedantic(
        alone.run, args=("scan", checkpoint, 4096 if small else tokens, MEMORY), rounds=1
    )
    timing, plan = found["timing"], found["plan"]
    benchmark.extra_info["record"] = {
        "case": f"opt-125m, T = {alone.CONTEXT}, bfloat16, n = 1..3, memory {MEMORY}",
        "tokens": found["tokens"],
        "context": alone.CONTEXT,
        "rounds": 1,
        "wall_s": found["wall_s"],
        "tokens_per_s": found["tokens"] / found["wall_s"],
        **by_stage([timing], plan["threads"]),
        "residual": plan["residual"],
        "mask": plan["mask"],
        "predicted_peak_mb": round(plan["predicted_peak_bytes"] / 1e6),
        "peak_resident_mb": round(found["peak_resident_bytes"] / 1e6),
        "held": found["peak_resident_bytes"] <= BUDGET,
    }
