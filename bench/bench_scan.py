"""The whole scan at OPT-125m's shape in bfloat16, every statistic, beside what users run today."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from opt_shapes import zipf_rows
from side_by_side import Tokens, beside

if TYPE_CHECKING:
    from pathlib import Path

    from interleaved import Interleaved

# context, tokens of our scan, rounds: of many tokens, and of few, where what each layer costs once
# weighs more
CASES = ((2048, 1_048_576, 2), (2048, 131_072, 2), (512, 65_536, 2))
TOOLS = {
    "TransformerLens run_with_cache, hook_pre": 2048,
    "TransformerLens run_with_cache, everything": 2048,
    "nnsight trace": 8192,
}


@pytest.mark.parametrize(("context", "amount", "rounds"), CASES)
def bench_scan(
    compare: Interleaved,
    checkpoint: Path,
    context: int,
    amount: int,
    rounds: int,
    tmp_path: Path,
    *,
    small: bool,
) -> None:
    many = amount == max(amount for _, amount, _ in CASES)
    if small:
        amount, rounds = 4 * context, 1
    beside(
        compare,
        checkpoint,
        Tokens.write(zipf_rows(amount // context, context), tmp_path),
        tmp_path / "sample",
        dtype="bfloat16",
        theirs=context if small else 16_384,
        tools={} if many else TOOLS,
        rounds=rounds,
        own_forward=context == 2048 and not many,
        case=f"opt-125m, T = {context}, bfloat16, n = 1..3",
        shape="opt-125m",
    )
