"""`attention` beside torch's scaled_dot_product_attention, the heads laid out as that likes best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional

from interleaved import Ceiling, Rival
from machine import BEST, CPP
from opt_shapes import SHAPES
from pyneurons import ops
from roofline import ceilings, on

if TYPE_CHECKING:
    from interleaved import Interleaved

SHAPE = SHAPES["opt-125m"]
TOKENS = 4096
SLOW = {"cpp:scalar": 1, "cpp:avx2": 1}
"""Sequences where 4,096 tokens would take longer than a benchmark wants to wait."""


CASES = [(BEST, 2048), (BEST, 512)] + [(backend, 512) for backend in CPP if backend != BEST]


@pytest.mark.parametrize(("backend", "context"), CASES)
def bench_attention(
    compare: Interleaved, backend: str, context: int, cores: int, *, small: bool
) -> None:
    context = 64 if small else context
    sequences = SLOW.get(backend, TOKENS // context) if not small else 2
    rows, width, heads = sequences * context, SHAPE.hidden, SHAPE.heads
    qkv = torch.randn(rows, 3 * width, generator=torch.Generator().manual_seed(0)).bfloat16()
    starts = np.arange(sequences + 1, dtype=np.int64) * context
    out = torch.empty(rows, width, dtype=torch.bfloat16)
    # [3, S, heads, T, head size]
    laid_out = qkv.view(sequences, context, 3, heads, -1).permute(2, 0, 3, 1, 4).contiguous()

    def ours() -> None:
        ops.attention(qkv, starts, heads, out, backend=backend, threads=cores)

    def plain() -> torch.Tensor:
        with torch.inference_mode():
            return functional.scaled_dot_product_attention(*laid_out, is_causal=True)

    ours()
    truth = functional.scaled_dot_product_attention(*laid_out[:, :1].double(), is_causal=True)
    found = out[:context].view(context, heads, -1).transpose(0, 1).double()
    error = (found - truth[0]).abs().max()
    assert error <= 2 * (plain()[0].double() - truth[0]).abs().max() + 2**-8

    flops = 2 * sequences * context**2 * width
    peak = Ceiling(lambda: ceilings().amx(cores), flops, "FLOP")
    compare(
        ours,
        tokens=rows,
        rivals={"torch bfloat16, SDPA": Rival(plain, rows)},
        ceilings={f"AMX from L1, {on(cores)}": peak} if backend == "cpp:amx" else {},
        flops=flops,
        case=f"{heads} heads of {width // heads}, {sequences} x T = {context}",
        context=context,
        backend=backend,
        threads=cores,
        flops_counted="the causal half of both products",
    )
