"""What a run that survives costs: the demo scan with ``out=`` beside the same in a temporary run.

``PYNEURONS_BENCH_PAIRS=FILE``: pairs are added to those of the file, so that a machine need not be idle
for all of them at once.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import pyneurons
from interleaved import PAUSE_S, quartiles

if TYPE_CHECKING:
    import pytest
    from pytest_benchmark.fixture import BenchmarkFixture

ROUNDS = 12


def bench_commits(
    benchmark: BenchmarkFixture,
    pytestconfig: pytest.Config,
    tmp_path: Path,
    cores: int,
    *,
    small: bool,
) -> None:
    most = 4096 if small else None  # the demo as it is
    said = os.environ.get("PYNEURONS_BENCH_PAIRS")
    file = tmp_path / "pairs" if said is None or small else Path(said)

    def scan(out: Path | None) -> tuple[float, pyneurons.Scan]:
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        run = pyneurons.scan("demo", "demo", out=out, max_tokens=most, progress=False)
        return time.perf_counter() - began, run

    def pair(number: int = 0) -> dict[str, Any]:
        order: list[Path | None] = [None, tmp_path / "run"]
        timed = {out: scan(out) for out in (reversed(order) if number % 2 else order)}
        (temporary_s, temporary), (lasting_s, lasting) = (timed[out] for out in order)
        assert np.array_equal(lasting.fires, temporary.fires)
        timing = lasting.manifest["timing"]
        shutil.rmtree(tmp_path / "run")
        return {
            "tokens": lasting.tokens,
            "temporary_s": temporary_s,
            "lasting_s": lasting_s,
            "commit_s": timing["commit_s"] + timing["thread_s"].get("keeping the residual", 0.0),
        }

    def kept() -> None:
        file.touch()
        number = len(file.read_text(encoding="utf-8").splitlines())
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(pair(number)) + "\n")

    pair()  # the first scan of a process pays for imports and memory
    rounds = 1 if small else pytestconfig.getoption("--rounds") or ROUNDS
    benchmark.pedantic(kept, rounds=rounds)
    pairs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    temporary, lasting, commits = (
        np.array([one[name] for one in pairs]) for name in ("temporary_s", "lasting_s", "commit_s")
    )
    benchmark.extra_info["record"] = {
        "case": "demo model, out= beside a temporary run",
        "threads": cores,
        "tokens": pairs[0]["tokens"],
        "rounds": len(pairs),
        "temporary_s": quartiles(temporary),
        "lasting_s": quartiles(lasting),
        "ratio": quartiles(lasting / temporary),
        "commit_s": quartiles(commits),
        "commit_share": quartiles(commits / lasting),
    }
