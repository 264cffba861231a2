"""fc1 with its bits, by every route that there is, beside torch's plain product, in turns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, get_args

import torch

from device.clock import in_turns, rates, ratios
from device.part import Part, run
from interleaved import quartiles
from opt_shapes import DEVIATION, QUANTILES
from pyneurons import backends, ops
from pyneurons.backends import triton_ffn
from pyneurons.model.config import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS: Final = ("66b", "30b", "6.7b", "125m")
ROWS: Final = 16_384
SHARE: Final = 0.05
"""Of cells that fire, as in the other benchmarks."""

CHECKED_ROWS: Final = 256


@dataclass(frozen=True, eq=False)
class Operands:
    """fc1 of one model on rows of LayerNorm, and room for what comes of it."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    mask: torch.Tensor
    z_max: torch.Tensor
    h: torch.Tensor
    no_update: torch.Tensor  # fc2 with no output: the launcher stops behind fc1, and h is written
    no_rows: torch.Tensor

    @classmethod
    def of(
        cls, hidden: int, neurons: int, rows: int, dtype: torch.dtype, device: torch.device
    ) -> Operands:
        """Return random operands of which `SHARE` of the cells fires."""
        torch.manual_seed(0)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(*size, device=device, dtype=dtype)

        bias = QUANTILES[SHARE] * DEVIATION * hidden**0.5
        strips, words = ops.strip_shape(neurons)
        return cls(
            x=normal(rows, hidden),
            weight=normal(neurons, hidden) * DEVIATION,
            bias=torch.full((neurons,), bias, device=device, dtype=dtype),
            mask=torch.full((strips, rows, words), -1, dtype=torch.int32, device=device),
            z_max=torch.full((neurons,), -torch.inf, device=device),
            h=torch.empty(rows, neurons, device=device, dtype=dtype),
            no_update=torch.empty(0, neurons, device=device, dtype=dtype),
            no_rows=torch.empty(rows, 0, device=device),
        )

    def fc1(self, route: triton_ffn.Route) -> None:
        """Run fc1 as a scan does: h, bits and largest z."""
        triton_ffn.ffn(
            self.x,
            self.weight,
            self.bias,
            self.no_update,
            None,
            self.no_rows,
            self.mask,
            self.z_max,
            route=route,
        )

    def bits(self, rows: int) -> torch.Tensor:
        """Return who fired in the first rows, bool [rows, F]."""
        words = self.mask[:, :rows, :, None] >> torch.arange(32, device=self.mask.device)
        return (words & 1).bool().transpose(0, 1).flatten(1)[:, : len(self.bias)]


def check(operands: Operands) -> dict[str, int]:
    """Compare bits with float32: they may differ where z is within rounding of 0 alone.

    The bound is ``(K + 1) 2**-24 (|x| |W| + |b|)`` and half the least float16: what two sums in
    float32 may differ by, and the least h that is not 0.
    """
    rows = min(CHECKED_ROWS, len(operands.x))
    x, weight, bias = (one.float() for one in (operands.x[:rows], operands.weight, operands.bias))
    z = torch.addmm(bias, x, weight.T)
    bound = torch.addmm(bias.abs(), x.abs(), weight.abs().T)
    bound = (x.shape[1] + 1) * 2.0**-24 * bound + 2.0**-25
    differ = operands.bits(rows) != (z > 0)
    assert not bool((differ & (z.abs() > bound)).any()), "bits differ from float32 beyond rounding"
    assert 0 < int((z > 0).sum()) < z.numel()
    return {"cells": z.numel(), "differ": int(differ.sum())}


def measure(part: Part) -> None:
    """Measure the large shapes first: what time is left is for the small ones."""
    device = part.device
    backends.resolve("triton")  # what its interpreter needs on toy shapes
    for model in MODELS:
        if not part.in_time("fc1", 5, model=model):
            continue
        config = PUBLISHED[model]
        hidden, neurons, rows = config.hidden_size, config.ffn_dim, ROWS
        if part.toy:
            hidden, neurons, rows = 64, 96, 70
        dtype = torch.float16
        operands = Operands.of(hidden, neurons, rows, dtype, device)
        programs: dict[str, Callable[[], object]] = {
            "torch.mm": partial(torch.mm, operands.x, operands.weight.T, out=operands.h),
            "torch.addmm": partial(
                torch.addmm, operands.bias, operands.x, operands.weight.T, out=operands.h
            ),
        }
        checked = {}
        for route in get_args(triton_ffn.Route):
            operands.mask.fill_(-1)
            operands.fc1(route)
            checked[route] = check(operands)
            programs[route] = partial(operands.fc1, route)
        seconds = in_turns(programs, device, budget_s=1.5, toy=part.toy)
        work = 2 * rows * hidden * neurons / 1e12
        for name, values in seconds.items():
            part.record(
                "fc1",
                model=model,
                program=name,
                ours=name in checked,
                dtype=str(dtype).removeprefix("torch."),
                rows=rows,
                hidden=hidden,
                neurons=neurons,
                rounds=len(values),
                seconds=quartiles(values),
                tflop_per_s=rates(work, values),
                of_mm=ratios(seconds["torch.mm"], values),
                checked=checked.get(name),
            )
        if part.toy:
            break
        del operands, programs
        torch.cuda.empty_cache()


if __name__ == "__main__":
    run(measure)
