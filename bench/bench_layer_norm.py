"""`layer_norm`: from the float32 residual stream to bfloat16, beside torch's norm and conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

ROWS = 2048
EPSILON = 1e-5
CASES = [
    (BEST, "opt-125m"),
    (BEST, "opt-1.3b"),
    *((backend, "opt-125m") for backend in CPP if backend != BEST),
]


@pytest.mark.parametrize(("backend", "name"), CASES)
def bench_layer_norm(
    compare: Interleaved, backend: str, name: str, cores: int, *, small: bool
) -> None:
    rows, width = 16 if small else ROWS, SHAPES[name].hidden
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator)
    weight, bias = (torch.randn(width, generator=generator) for _ in range(2))
    out = torch.empty(rows, width, dtype=torch.bfloat16)

    def ours() -> None:
        ops.layer_norm(x, weight, bias, EPSILON, out, backend=backend, threads=cores)

    def plain() -> torch.Tensor:
        return functional.layer_norm(x, (width,), weight, bias, EPSILON).bfloat16()

    ours()
    assert (out == plain()).float().mean() > 0.999  # sums of another order round otherwise

    data = x.numpy()
    reading = Ceiling(lambda: ceilings().read(data, cores), data.nbytes, "B")
    compare(
        ours,
        tokens=rows,
        rivals={"torch, layer_norm and bfloat16": Rival(plain, rows)},
        ceilings={f"reading the same bytes, {on(cores)}": reading} if backend == BEST else {},
        size=data.nbytes,
        budget_s=2.0,
        case=f"{name}, {rows:,} rows of {width:,}",
        shape=name,
        backend=backend,
        threads=cores,
    )
