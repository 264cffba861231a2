"""The whole scan of the embedded demo model on its own corpus, beside what users run today."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyneurons import corpus, demo
from pyneurons.model.checkpoint import load_tokenizer
from side_by_side import Tokens, beside

if TYPE_CHECKING:
    from pathlib import Path

    from interleaved import Interleaved

CONTEXT, AMOUNT = 256, 524_288
ROUNDS = {"bfloat16": 3, "float32": 2}
TOOLS = {
    "TransformerLens run_with_cache, hook_pre": 16_384,
    "TransformerLens run_with_cache, everything": 16_384,
    "nnsight trace": 32_768,
}


@pytest.mark.parametrize("dtype", list(ROUNDS))
def bench_scan_demo(compare: Interleaved, dtype: str, tmp_path: Path, *, small: bool) -> None:
    amount = 16 * CONTEXT if small else AMOUNT
    with corpus.read(
        demo.demo_corpus(),
        load_tokenizer(demo.model_directory()),
        context=CONTEXT,
        packing="pack",
        vocab_size=4096,
        scratch=tmp_path,
    ) as read:
        full = read.starts[:-1][read.full][: amount // CONTEXT]
        rows = read.ids[full[:, None] + range(CONTEXT)]
    beside(
        compare,
        "demo",
        Tokens.write(rows.astype("int32"), tmp_path),
        tmp_path / "sample",
        dtype=dtype,
        theirs=8 * CONTEXT if small else 65_536,
        tools=TOOLS,
        rounds=1 if small else ROUNDS[dtype],
        case=f"demo model, T = {CONTEXT}, {dtype}, n = 1..3",
        shape="demo",
    )
