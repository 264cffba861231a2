"""Time programs in turns on a device, A B A B: each ratio is taken inside one round.

On a GPU by events. A kernel that only waits is queued before each piece, so that the launches are done
when the clock starts: what is timed is the device, not how fast Python fills its queue.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

import torch

from interleaved import quartiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LEAST_S: Final = 2e-3
"""What takes less is called several times in a row."""

MOST_CALLS: Final = 100
"""In a row: a queue holds about 1,000 launches."""

LAUNCH_S: Final = 2e-4
"""Of one call at most, its allocations included; not measured here."""

CYCLES_A_SECOND: Final = 2e9
"""At most, of the waiting kernel."""


def in_turns(
    programs: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    budget_s: float = 1.5,
    most: int = 25,
    toy: bool = False,
) -> dict[str, list[float]]:
    """Return the seconds of one call of each program, round by round: 3 to ``most`` rounds.

    One round of one call for toy shapes, where the interpreter takes seconds.
    """
    if toy:
        return {name: [_seconds(program, device, 1)] for name, program in programs.items()}
    for program in programs.values():  # compiled, and memory at hand
        program()
    once = {name: _seconds(program, device, 1) for name, program in programs.items()}
    times = {
        name: min(MOST_CALLS, math.ceil(LEAST_S / max(seconds, 1e-7)))
        for name, seconds in once.items()
    }
    round_s = sum(once[name] * times[name] for name in once)
    rounds = int(min(max(budget_s / max(round_s, 1e-9), 3), most))
    found: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            found[name].append(_seconds(program, device, times[name]))
    return found


def _seconds(program: Callable[[], object], device: torch.device, times: int) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(times):
            program()
        return (time.perf_counter() - began) / times
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(int(LAUNCH_S * times * CYCLES_A_SECOND))
    begin.record()
    for _ in range(times):
        program()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


def rates(work: float, seconds: list[float]) -> list[float]:
    """Return the quartiles of work a second."""
    return quartiles([work / value for value in seconds])


def ratios(theirs: list[float], ours: list[float]) -> list[float]:
    """Return the quartiles of how many times as long theirs takes, round by round."""
    return quartiles([a / b for a, b in zip(theirs, ours, strict=True)])
