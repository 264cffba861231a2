"""Whole forward passes by the engine, weights streamed, without statistics and with all of them."""

from __future__ import annotations

from typing import Final

import torch

from device.clock import in_turns
from device.engine_runs import Case, corpus, run_engine, why_no_engine
from device.part import Part, run
from device.random_checkpoint import RandomCheckpoint

CASES: Final = (
    Case("125m", 12, 1 << 20),
    Case("6.7b", 8, 1 << 19),
    Case("66b", 3, 1 << 20),
)
SECONDS: Final = {"125m": 8, "6.7b": 20, "66b": 60}
"""About what both runs of each take; none was measured yet."""

REPEATS: Final = {"125m": 3, "6.7b": 1, "66b": 1}


def gemm_rate(device: torch.device, size: int) -> float:
    """Return operations a second of one large float16 product, just now."""
    a, b = (torch.randn(size, size, device=device).half() for _ in range(2))
    out = torch.empty_like(a)
    found = in_turns({"mm": lambda: torch.mm(a, b, out=out)}, device, budget_s=0.3)["mm"]
    return 2 * size**3 / sorted(found)[len(found) // 2]


def measure(part: Part) -> None:
    """Run each shape bare, then with statistics; the roofline is measured before and after."""
    device = part.device
    reason = why_no_engine(device)
    if reason is not None:
        part.absent("forward", reason)
        return
    for case in CASES[:1] if part.toy else CASES:
        if not part.in_time("forward", SECONDS[case.model], model=case.model):
            continue
        config, rows = case.config(toy=part.toy), case.rows(toy=part.toy)
        checkpoint = RandomCheckpoint(config, device=device)
        tokens = corpus(rows, config.vocab_size)
        work = tokens.tokens * case.flops_per_token(config, rows.shape[1])
        size = 128 if part.toy else 8192
        run_engine(checkpoint, corpus(rows[:1], config.vocab_size), device, statistics=True)
        for _ in range(1 if part.toy else REPEATS[case.model]):
            before = gemm_rate(device, size)
            for statistics in (False, True):
                outcome = run_engine(checkpoint, tokens, device, statistics=statistics)
                after = gemm_rate(device, size)
                timing = outcome["timing"]
                seconds = timing["layers_s"]
                rate = (before + after) / 2
                part.record(
                    "forward",
                    model=case.model,
                    statistics=statistics,
                    layers=config.num_hidden_layers,
                    tokens=tokens.tokens,
                    context=rows.shape[1],
                    layers_s=seconds,
                    wall_s=timing["wall_s"],
                    tokens_per_s=tokens.tokens / seconds,
                    layer_tokens_per_s=tokens.tokens * config.num_hidden_layers / seconds,
                    gemm_tflop_per_s=rate / 1e12,
                    of_gemm=work / seconds / rate,
                    **stall(outcome),
                    stages_s={k: round(v, 4) for k, v in timing["thread_s"].items()},
                    plan=outcome["plan"],
                )
        del checkpoint
        if device.type == "cuda":
            torch.cuda.empty_cache()


def stall(outcome: dict[str, object]) -> dict[str, float]:
    """Return the share of the layers' time in which kernels waited for weights, where it is told."""
    timing = outcome["timing"]
    assert isinstance(timing, dict)
    if "stall_s" not in timing:
        return {}
    return {"stall": timing["stall_s"] / timing["layers_s"]}


if __name__ == "__main__":
    run(measure)
