"""Time programs in turns, A B A B, and keep the spread of their ratios.

A machine that others share slows down and recovers within seconds. Programs timed one after the
other see different machines; those timed in turns see the same one, and each ratio is taken inside
one round.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_benchmark.fixture import BenchmarkFixture

PAUSE_S = 0.005
"""Before each program: threads that wait for work in a loop have given up by then."""

LEAST_S = 0.01
"""What takes less is called several times in a row, ours and others alike."""


@dataclass(frozen=True)
class Rival:
    """What a user would run instead.

    Parameters
    ----------
    run : callable
        If it returns a float, that is the seconds it took (another process knows better).
    tokens : int
        How many tokens it takes; ratios are of time per token.
    """

    run: Callable[[], object]
    tokens: int

    def seconds(self, times: int = 1) -> float:
        """Run it so many times in a row; return the seconds that one took."""
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        own = [self.run() for _ in range(times)]
        elapsed = time.perf_counter() - began
        if isinstance(own[0], float):
            elapsed = sum(value for value in own if isinstance(value, float))
        return elapsed / times


@dataclass(frozen=True)
class Ceiling:
    """A rate of the machine, measured in every round.

    Parameters
    ----------
    measure : callable
        Returns units a second; None where the machine has no such thing.
    work : float
        How many of these units one call of the timed program needs.
    unit : str
        "FLOP" or "B".
    """

    measure: Callable[[], float | None]
    work: float
    unit: str


def quartiles(values: Any) -> list[float]:
    """Return the lower quartile, the median and the upper quartile."""
    return [float(f"{value:.4g}") for value in np.percentile(values, (25, 50, 75))]


@dataclass
class Interleaved:
    """The timer behind every benchmark: pytest-benchmark times ours, this what stands beside it.

    Parameters
    ----------
    benchmark : BenchmarkFixture
        Of pytest-benchmark; times the rounds and stores the record (``extra_info``).
    rounds : int, optional
        How many, whatever a benchmark asks for.
    """

    benchmark: BenchmarkFixture
    rounds: int | None = None

    def __call__(
        self,
        run: Callable[[], None],
        *,
        tokens: int,
        rivals: Mapping[str, Rival] | None = None,
        ceilings: Mapping[str, Ceiling] | None = None,
        flops: float | None = None,
        size: float | None = None,
        budget_s: float = 4.0,
        rounds: int | None = None,
        warm: bool = True,
        growing: Callable[[], float] | None = None,
        notes: Callable[[], Mapping[str, Any]] = dict,
        **facts: Any,
    ) -> dict[str, Any]:
        """Time ``run`` beside its rivals and the machine's ceilings; store and return the record.

        Parameters
        ----------
        run : callable
            The program; its answer was asserted before.
        tokens : int
            Rows of a mask or tokens of a corpus that one call takes.
        rivals, ceilings : mapping, optional
            By the names that tables show.
        flops, size : float, optional
            Operations of one call, and bytes that it has to read, for rates.
        budget_s : float
            Time for all rounds together; 3 to 25 rounds.
        rounds : int, optional
            A fixed number of rounds instead.
        warm : bool
            Run everything once before the first round.
        growing : callable, optional
            Called after each round: the seconds of it that grow with the number of tokens. Rates
            and ratios of those alone then stand in the record under that name.
        notes : callable
            Called after the last round; what it returns goes into the record.
        facts
            Into the record as they are: case, backend, threads, ...
        """
        others = dict(rivals or {})
        roofs = {name: roof for name, roof in (ceilings or {}).items() if roof.measure()}
        timed: dict[str, list[float]] = {name: [] for name in (*others, *roofs)}
        peaks: list[int] = []
        grown: list[float] = []

        def others_turn() -> None:
            for name, rival in others.items():
                timed[name].append(rival.seconds(times[name]))
            for name, roof in roofs.items():
                timed[name].append(roof.measure() or float("nan"))
            _reset_peak()
            time.sleep(PAUSE_S)

        timing = self.benchmark.enabled
        times = dict.fromkeys(("", *others), 1)
        if timing and warm:
            programs = {"": Rival(run, tokens), **others}
            for program in programs.values():
                program.seconds()
            once = {name: program.seconds() for name, program in programs.items()}
            times = {name: math.ceil(LEAST_S / seconds) for name, seconds in once.items()}
            round_s = sum(once[name] * times[name] for name in once)
            rounds = rounds or int(np.clip(budget_s / round_s, 3, 25))

        def ours_turn() -> None:
            for _ in range(times[""]):
                run()

        def after_turn() -> None:
            peaks.append(_peak_bytes())
            if growing is not None:
                grown.append(growing())

        self.benchmark.pedantic(
            ours_turn,
            setup=others_turn,
            teardown=after_turn,
            rounds=self.rounds or rounds or 3,
        )
        if not timing:
            return {}
        ours = np.array(self.benchmark.stats.stats.data) / times[""]
        record: dict[str, Any] = {
            **facts,
            "tokens": tokens,
            "rounds": len(ours),
            "calls_a_round": times[""],
            "seconds": quartiles(ours),
            "tokens_per_s": quartiles(tokens / ours),
            "peak_resident_mb": round(max(peaks) / 1e6),
        }
        if flops is not None:
            record["tflop_per_s"] = quartiles(flops / ours / 1e12)
        if size is not None:
            record["gb_per_s"] = quartiles(size / ours / 1e9)
        record["ceilings"] = {
            name: {
                "unit": f"{'T' if roof.unit == 'FLOP' else 'G'}{roof.unit}/s",
                "measured": quartiles(
                    np.array(timed[name]) / (1e12 if roof.unit == "FLOP" else 1e9)
                ),
                "share": quartiles(roof.work / ours / np.array(timed[name])),
            }
            for name, roof in roofs.items()
        }
        # Seconds per token of each rival, round by round.
        paces = {name: np.array(timed[name]) / rival.tokens for name, rival in others.items()}
        record["rivals"] = {
            name: {
                "tokens": rival.tokens,
                "seconds": quartiles(timed[name]),
                "tokens_per_s": quartiles(1 / paces[name]),
                "ratio": quartiles(paces[name] / (ours / tokens)),
            }
            for name, rival in others.items()
        }
        if grown:
            share = np.array(grown)
            record["growing"] = {
                "seconds": quartiles(share),
                "tokens_per_s": quartiles(tokens / share),
                "ratio": {name: quartiles(pace / (share / tokens)) for name, pace in paces.items()},
            }
        record.update(notes())
        self.benchmark.extra_info["record"] = record
        return record


def _peak_bytes() -> int:
    """Largest resident memory since the last reset (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> None:
    """Let VmHWM begin anew, so that a record shows its own peak and not that of its rivals."""
    Path("/proc/self/clear_refs").write_text("5")
