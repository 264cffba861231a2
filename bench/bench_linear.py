"""`linear`: in float32 by way of bfloat16, and whose error is less; in bfloat16; beside torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from interleaved import Ceiling, Rival
from machine import BEST, CPP
from opt_shapes import DEVIATION, SHAPES
from pyneurons import ops
from pyneurons.panels import Panels, SplitPanels
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
IN_BFLOAT16 = [
    *((BEST, name, layer) for name in ("opt-125m", "opt-1.3b") for layer in ("q, k, v", "out")),
    *((backend, "opt-125m", "q, k, v") for backend in CPP if backend != BEST),
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


@pytest.mark.parametrize(("backend", "name", "layer"), IN_BFLOAT16)
def bench_linear_bfloat16(
    compare: Interleaved, backend: str, name: str, layer: str, cores: int, *, small: bool
) -> None:
    """q, k and v are written in bfloat16; what out gives is added to the residual stream."""
    width = SHAPES[name].hidden
    rows = 16 if small else ROWS if backend == BEST else SLOW[backend]
    columns = 3 * width if layer == "q, k, v" else width
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator).bfloat16()
    weight = (torch.randn(columns, width, generator=generator) * DEVIATION).bfloat16()
    bias = torch.randn(columns, generator=generator).bfloat16()
    panels = Panels.of(weight)
    adds = layer == "out"
    out = torch.zeros(rows, columns, dtype=torch.float32 if adds else torch.bfloat16)
    residual = torch.zeros(rows, columns)

    def ours() -> None:
        ops.linear(x, panels, bias, out, backend=backend, threads=cores)

    def plain() -> torch.Tensor:
        product = functional.linear(x, weight, bias)
        return residual.add_(product) if adds else product

    ours()
    truth = functional.linear(x.float(), weight.float(), bias.float())
    torch.testing.assert_close(out.float(), truth, rtol=2.0**-8, atol=1e-3)

    flops = 2 * rows * columns * width
    peak = Ceiling(lambda: ceilings().amx(cores), flops, "FLOP")
    compare(
        ours,
        tokens=rows,
        rivals={"torch bfloat16, linear" + (" and add" if adds else ""): Rival(plain, rows)},
        ceilings={f"AMX from L1, {on(cores)}": peak} if backend == "cpp:amx" else {},
        flops=flops,
        budget_s=2.0,
        case=f"{name} {layer}, bfloat16, {rows:,} rows",
        shape=name,
        layer=layer,
        backend=backend,
        threads=cores,
    )
