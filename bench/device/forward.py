"""Whole forward passes by the engine, weights streamed, without statistics and with all of them."""

from __future__ import annotations

from typing import Any, Final

import torch

from device.clock import in_turns
from device.engine_runs import Case, corpus, run_engine
from device.part import Part, run
from device.random_checkpoint import RandomCheckpoint

CASES: Final = (
    Case("125m", 12, 1 << 20),
    Case("6.7b", 6, 1 << 20),
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
    for case in CASES[:1] if part.toy else CASES:
        if not part.in_time("forward", SECONDS[case.model], model=case.model):
            continue
        config, rows = case.config(toy=part.toy), case.rows(toy=part.toy)
        dtype = torch.float32 if part.toy else torch.float16
        checkpoint = RandomCheckpoint(config, dtype=dtype, device=device)
        tokens = corpus(rows, config.vocab_size)
        size = 128 if part.toy else 8192
        # Kernels are compiled, and memory is at hand, for what is timed.
        run_engine(checkpoint, corpus(rows[:1], config.vocab_size), statistics=True, toy=part.toy)
        for _ in range(1 if part.toy else REPEATS[case.model]):
            before = gemm_rate(device, size)
            for statistics in (False, True):
                outcome = run_engine(checkpoint, tokens, statistics=statistics, toy=part.toy)
                rate = (before + gemm_rate(device, size)) / 2
                found = figures(
                    tokens.tokens * case.layers_run(config, rows.shape[1]),
                    case.layer_flops(config, rows.shape[1]) / rate,
                    outcome,
                    statistics=statistics,
                )
                part.record(
                    "forward",
                    model=case.model,
                    statistics=statistics,
                    layers=config.num_hidden_layers,
                    context=rows.shape[1],
                    gemm_tflop_per_s=rate / 1e12,
                    tokens=tokens.tokens,
                    tokens_per_s=tokens.tokens / found["seconds"],
                    **found,
                )
        del checkpoint


def figures(
    layer_tokens: float, least_s: float, outcome: dict[str, Any], *, statistics: bool
) -> dict[str, Any]:
    """Return what one run of so many layers times tokens tells, each of which takes at least so long.

    Its seconds are those of its layers; of a bare run those of the forward passes alone, for it counts
    and writes its last layer as well. The wait for the first layer's weights is left out and stands
    beside: it comes once in a run, of which these few layers are a small part. ``stall`` is the share of
    these seconds in which kernels waited for the weights of other layers or for the residual stream.
    """
    timing, waits = outcome["timing"], outcome["waits"]
    first = waits["first_weights_s"]
    if statistics:
        seconds = timing["layers_s"] - first
    else:  # the forward passes begin when the host has the weights, and wait for the device's copy
        seconds = timing["thread_s"]["forward"] + waits["weights_host_s"]
        seconds -= max(0.0, first - waits["first_host_s"])
    return {
        "seconds": seconds,
        "layer_tokens_per_s": layer_tokens / seconds,
        "of_gemm": layer_tokens * least_s / seconds,
        "stall": (waits["weights_s"] + waits["residual_s"]) / seconds,
        "first_weights_s": first,
        "layers_s": timing["layers_s"],
        "wall_s": timing["wall_s"],
        "stages_s": {name: round(value, 4) for name, value in timing["thread_s"].items()},
        "numeric": outcome["numeric"],
        "plan": outcome["plan"],
    }


if __name__ == "__main__":
    run(measure)
