"""`linear`: float32 products by way of bfloat16, beside torch's float32; and whose error is less."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from interleaved import Ceiling, Rival
from machine import BEST, CPP
from opt_shapes import DEVIATION, SHAPES
from pyneurons import ops
from pyneurons.panels import SplitPanels
from roofline import ceilings, on

if TYPE_CHECKING:
    from interleaved import Interleaved

ROWS = 2048
SLOW = {"cpp:scalar": 32, "cpp:avx2": 128, "cpp:avx512": 256, "cpp:avx512bf16": 256}
"""Rows where a call of 2,048 would take longer than a benchmark wants to wait."""

PARTS = {torch.bfloat16: 1, torch.float16: 2, torch.float32: 3}
CASES = [
    *((BEST, "opt-125m", "fc1", kind) for kind in PARTS),
    (BEST, "opt-125m", "fc2", torch.float16),
    (BEST, "opt-1.3b", "fc1", torch.float16),
    *((backend, "opt-125m", "fc1", torch.float16) for backend in CPP if backend != BEST),
]


@pytest.mark.parametrize(("backend", "name", "layer", "kind"), CASES)
def bench_linear(
    compare: Interleaved,
    backend: str,
    name: str,
    layer: str,
    kind: torch.dtype,
    cores: int,
    *,
    small: bool,
) -> None:
    shape = SHAPES[name]
    columns, terms = shape.neurons, shape.hidden
    if layer == "fc2":
        columns, terms = terms, columns
    rows = 16 if small else ROWS if backend == BEST else SLOW[backend]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, terms, generator=generator)
    weight = (torch.randn(columns, terms, generator=generator) * DEVIATION).to(kind)
    split = SplitPanels.of(weight)
    assert len(split.parts) == PARTS[kind]
    whole = weight.float()
    out, plain_out = torch.empty(rows, columns), torch.empty(rows, columns)

    def ours() -> None:
        ops.linear(x, split, None, out, backend=backend, threads=cores)

    def plain() -> None:
        torch.mm(x, whole.T, out=plain_out)

    ours()
    plain()
    truth = functional.linear(x.double(), weight.double())
    error = float((out - truth).square().mean().sqrt())
    theirs = float((plain_out - truth).square().mean().sqrt())
    assert error <= theirs

    flops = 2 * rows * columns * terms
    peak = Ceiling(lambda: ceilings().amx(cores), flops, "FLOP")
    compare(
        ours,
        tokens=rows,
        rivals={"torch float32, mm": Rival(plain, rows)},
        ceilings={f"AMX from L1, {on(cores)}": peak} if backend == "cpp:amx" else {},
        flops=flops,
        budget_s=2.0,
        case=f"{name} {layer}, weight {str(kind).removeprefix('torch.')}, {rows:,} rows",
        shape=name,
        weight=str(kind).removeprefix("torch."),
        backend=backend,
        threads=cores,
        error_ratio=error / theirs,
        flops_counted="one product each, not the 3 to 6 of bfloat16 that it is made of",
    )
