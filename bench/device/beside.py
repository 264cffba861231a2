"""What users run today on the same shapes and tokens: transformers with hooks, accelerate's offload."""

from __future__ import annotations

import time
from typing import Final

import torch

from device.engine_runs import Case
from device.part import Part, run
from device.random_checkpoint import RandomCheckpoint
from device.transformers_runs import Hooked
from interleaved import quartiles

CASES: Final = (
    (Case("125m", 12, 1 << 18), False),
    (Case("66b", 3, 1 << 15), True),
    (Case("6.7b", 6, 1 << 17), False),
)
"""Shapes and layers as in `device.forward`, with fewer tokens; whether weights are offloaded."""

SECONDS: Final = {"125m": 8, "66b": 25, "6.7b": 15}
"""About what each takes; none was measured yet."""

TOGETHER: Final = (1, 8)
"""Sequences of a batch; the faster one counts."""

ROUNDS: Final = 3


def seconds_of(hooked: Hooked, rows: object, device: torch.device) -> float:
    """Return the seconds of one run, to its end on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    hooked.run(rows)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(part: Part) -> None:
    """Measure each program alone on the device: two models of 6.7b do not fit beside a scan."""
    device = part.device
    dtype = torch.float32 if part.toy else torch.float16
    for case, offload in CASES[:2] if part.toy else CASES:
        program = (
            "accelerate offload, counting hooks" if offload else "transformers, counting hooks"
        )
        if not part.in_time("beside", SECONDS[case.model], model=case.model, program=program):
            continue
        config, rows = case.config(toy=part.toy), case.rows(toy=part.toy)
        checkpoint = RandomCheckpoint(config, device=device)
        hooked = Hooked(checkpoint, device, dtype, offload=offload)
        # One sequence at a time reads the offloaded weights for 2,048 tokens: nobody would.
        for together in TOGETHER[1:] if offload else TOGETHER:
            hooked.together = together
            fires = hooked.fires(rows[:together])
            share = float(fires.sum()) / (fires.numel() * rows[:together].size)
            assert 0 < share < 0.6, f"{share:.2f} of the cells fire"
            seconds = [seconds_of(hooked, rows, device) for _ in range(ROUNDS)]
            part.record(
                "beside",
                model=case.model,
                program=program,
                sequences_together=together,
                dtype=str(dtype).removeprefix("torch."),
                layers=config.num_hidden_layers,
                tokens=rows.size,
                context=rows.shape[1],
                firing_share=share,
                seconds=quartiles(seconds),
                tokens_per_s=quartiles([rows.size / value for value in seconds]),
                layer_tokens_per_s=quartiles(
                    [rows.size * config.num_hidden_layers / value for value in seconds]
                ),
            )
        del hooked, checkpoint
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    run(measure)
