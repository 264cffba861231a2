"""`ffn` with bits out beside torch's plain block: fc1, ReLU, fc2, no bits, no residual."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional

from interleaved import Ceiling, Rival
from machine import BEST, CPP
from opt_shapes import SHAPES, ffn_operands
from pyneurons import ops, reference
from pyneurons.panels import Panels
from roofline import ceilings, on

if TYPE_CHECKING:
    from interleaved import Interleaved

ROWS = {"opt-125m": 4096, "opt-1.3b": 2048}
SLOW = {"cpp:scalar": 64, "cpp:avx2": 512, "cpp:avx512": 1024, "cpp:avx512bf16": 1024}
"""Rows where a call of 4,096 would take longer than a benchmark wants to wait."""

CASES = [(BEST, name, share) for name in ROWS for share in (0.05, 0.5)] + [
    (backend, "opt-125m", 0.05) for backend in CPP if backend != BEST
]


@pytest.mark.parametrize(("backend", "name", "share"), CASES)
def bench_ffn(
    compare: Interleaved, backend: str, name: str, share: float, cores: int, *, small: bool
) -> None:
    shape = SHAPES[name]
    rows = 32 if small else ROWS[name] if backend == BEST else SLOW[backend]
    given = ffn_operands(shape, rows, share, torch.bfloat16)
    panels = Panels.of(given["fc1"]), Panels.of(given["fc2"])
    residual = given["residual"].clone()
    strips, words = ops.strip_shape(shape.neurons)
    mask = np.zeros((strips, rows, words), dtype=np.uint32)
    z_max = torch.full((shape.neurons,), -torch.inf)

    def ours() -> None:
        ops.ffn(
            given["x"],
            panels[0],
            given["bias1"],
            panels[1],
            given["bias2"],
            residual,
            mask,
            z_max,
            backend=backend,
            threads=cores,
        )

    def plain() -> torch.Tensor:
        with torch.inference_mode():
            h = torch.relu(functional.linear(given["x"], given["fc1"], given["bias1"]))
            return functional.linear(h, given["fc2"], given["bias2"])

    ours()
    check(given, mask, residual, plain())

    fired = float(np.bitwise_count(mask).sum()) / (rows * shape.neurons)
    peak = Ceiling(lambda: ceilings().amx(cores), 4 * rows * shape.hidden * shape.neurons, "FLOP")
    compare(
        ours,
        tokens=rows,
        rivals={"torch bfloat16, fc1 + ReLU + fc2": Rival(plain, rows)},
        ceilings={f"AMX from L1, {on(cores)}": peak} if backend == "cpp:amx" else {},
        flops=4 * rows * shape.hidden * shape.neurons,
        case=f"{name}, {rows} rows, {share:.0%} firing",
        shape=name,
        share=share,
        backend=backend,
        threads=cores,
        firing_share=fired,
        flops_counted="dense: products that fc2 skips because a neuron is silent are counted",
    )


def check(given: dict, mask: np.ndarray, residual: torch.Tensor, plain: torch.Tensor) -> None:
    """Compare bits and output with float64, from the same operands."""
    x, fc1, bias1, fc2, bias2, before = (given[key].double() for key in given)
    z = (functional.linear(x, fc1, bias1)).numpy()
    words = np.concatenate(list(mask), axis=1)
    fires = reference.unpack(words, z.shape[1])
    wrong = fires != (z > 0)
    # Of a sum of D products in float32, whose terms are some tenths, no more than this is rounding.
    assert np.abs(z[wrong]).max(initial=0) < 1e-4
    assert wrong.mean() < 1e-4
    truth = functional.linear(torch.relu(torch.from_numpy(z)), fc2, bias2)
    error = (residual.double() - before - truth).abs().max()
    assert error <= 2 * (plain.double() - truth).abs().max() + 1e-6
