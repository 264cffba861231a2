"""Scans in child processes that may have only so much memory, or whose N-th large allocation fails;
and ops likewise.

A program of its own: it forks, which a test process with its threads must not. One child is one run of
the command, from the command line's own `main`; imports are paid once. Prints a line of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from killed_scans import ended
from same_files import contents

from pyneurons import _env, cli, ops
from pyneurons._foreign import no_memory
from pyneurons._verify import verify
from pyneurons.errors import PyneuronsError
from pyneurons.panels import Panels, SplitPanels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAYS = ("spare", "step")
SHIM = ctypes.CDLL(None)  # `failing_allocations.c`, where it was preloaded


def command(job: dict[str, Any], out: Path) -> list[str]:
    """Return the words of the command, the same ones every time."""
    return ["pyneurons", "scan", job["model"], job["corpus"], "--out", str(out), *job["options"]]


def run(words: list[str], before: Callable[[], None], said: Path) -> int:
    """Run a command in a child; return its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid:
        return ended(pid)
    signal.alarm(60)  # whoever hangs ends by a signal, which is seen
    try:
        with said.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = words
        before()
        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001
        code = 1
        sys.excepthook(*sys.exc_info())
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    if hasattr(SHIM, "allocations_seen"):
        SHIM.allocations_arm(-1)
        said.with_name("seen").write_text(str(SHIM.allocations_seen()))
    os._exit(code)


def at_most(spare: int) -> Callable[[], None]:
    """Return what leaves this process so many bytes of address space beyond what it has."""

    def limit() -> None:
        size = (_env.virtual_bytes() or 0) + spare
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    return limit


def failing(number: int) -> Callable[[], None]:
    """Return what makes the N-th large allocation fail."""

    return lambda: SHIM.allocations_arm(number)


def runs(job: dict[str, Any], folder: Path, whole: Any, way: str) -> Iterator[dict[str, Any]]:
    """Run the command under each fault, then without one; yield how it ended and what was lost."""
    said = folder / "said"
    for value in job["spare"] if way == "spare" else range(1, 1 << 30, job["step"]):
        out = folder / "runs" / f"run-{value}"
        code = run(command(job, out), (at_most if way == "spare" else failing)(value), said)
        entry = {"value": value, "code": code, "said": said.read_text(errors="replace")}
        if way == "step" and int((folder / "seen").read_text()) < value:
            return  # it met no failure
        entry["lost"] = ""
        if problems := verify_problems(out):
            entry["lost"] = f"the ledger is damaged: {problems}"
        elif run(command(job, out), lambda: None, said) != 0:
            entry["lost"] = f"the command does not go on: {said.read_text()}"
        elif contents(out) != whole:
            entry["lost"] = "other bytes"
        elif [path.name for path in out.parent.iterdir()] != [out.name]:
            entry["lost"] = "something is left"
        shutil.rmtree(out.parent)
        yield entry


def calls() -> dict[str, Callable[[], Any]]:
    """Return ops on arrays large enough for large scratch; each returns its outputs."""
    random = np.random.default_rng(0)
    mask = random.integers(0, 2**32, size=(600, 64), dtype=np.uint32)
    lengths = np.sort(random.integers(1, 90, size=10))
    segments = np.concatenate([[0], np.cumsum(lengths)])
    counts = np.zeros((len(lengths), 2048), dtype=np.int64)
    ops.segment_counts(mask, None, segments, counts)
    values = {
        name: torch.from_numpy(random.integers(-3, 4, shape).astype(np.float32))
        for name, shape in {"x": (700, 256), "up": (2048, 256), "down": (256, 2048)}.items()
    }
    coarse = {name: value.bfloat16() for name, value in values.items()}

    def segment_counts() -> Any:
        found = np.zeros((1, 65536), dtype=np.int64)
        wide = np.broadcast_to(mask[:4, :1], (4, 1)).repeat(2048, axis=1)
        ops.segment_counts(wide, None, np.array([0, 4]), found, threads=3)
        return found

    def ngram_coverage() -> Any:
        histogram = np.zeros((91, 2048), dtype=np.int64)
        large = np.zeros((0, 2048), dtype=np.int64)
        given = (mask, None, segments, counts.sum(axis=0), histogram, large)
        ops.ngram_coverage(*given, threads=2)
        return histogram

    def ffn(given: dict[str, Any], panels: Any) -> Any:
        residual, z_max = torch.zeros(700, 256), torch.full((2048,), -torch.inf)
        bits = np.zeros((2, 700, 32), dtype=np.uint32)
        up, down = panels(given["up"]), panels(given["down"])
        ops.ffn(given["x"], up, None, down, None, residual, bits, z_max)
        return residual.numpy()

    def linear(given: dict[str, Any], panels: Any) -> Any:
        found = torch.zeros(700, 2048, dtype=given["x"].dtype)
        ops.linear(given["x"], panels(given["up"]), None, found)
        return found.float().numpy()

    def attention() -> Any:
        qkv, found = coarse["x"].repeat(1, 3), torch.zeros(700, 256, dtype=torch.bfloat16)
        ops.attention(qkv, np.array([0, 700]), 2, found)
        return found.float().numpy()

    return {
        "segment_counts": segment_counts,
        "ngram_coverage": ngram_coverage,
        "ffn float32": lambda: ffn(values, lambda weight: weight),
        "ffn bfloat16": lambda: ffn(coarse, Panels.of),
        "linear float32": lambda: linear(values, SplitPanels.of),
        "linear bfloat16": lambda: linear(coarse, Panels.of),
        "attention": attention,
    }


def of_a_new_thread(work: Callable[[], Any]) -> Any:
    """Return what ``work`` returns, or its error; in a thread that has no scratch yet."""
    found: list[Any] = []

    def guarded() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001
            found.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    return found[0]


def ops_at_every_allocation() -> dict[str, Any]:
    """Let each large allocation of each op fail in turn; return how often, and what went wrong."""
    told: dict[str, Any] = {}
    for name, work in calls().items():
        expected, wrong, number = of_a_new_thread(work), [], 0
        while True:
            number += 1
            SHIM.allocations_arm(number)
            found = of_a_new_thread(work)
            SHIM.allocations_arm(-1)
            if SHIM.allocations_seen() < number:
                break
            right = isinstance(found, np.ndarray) and np.array_equal(found, expected)
            if not (right or (isinstance(found, Exception) and no_memory(found))):
                wrong.append(repr(found))
            if not np.array_equal(of_a_new_thread(work), expected):
                wrong.append("other results afterwards")
        told[name] = {"failures": number - 1, "wrong": wrong}
    return told


def main() -> None:
    """Read what to do from the first argument, JSON."""
    job = json.loads(sys.argv[1])
    folder = Path(job["folder"])
    with contextlib.suppress(PyneuronsError):  # what the command line itself imports when it begins
        cli.app(["status", str(folder / "nothing")], standalone_mode=False)
    said = folder / "said"
    assert run(command(job, folder / "whole"), lambda: None, said) == 0, said.read_text()
    whole = contents(folder / "whole")
    shutil.rmtree(folder / "whole")
    found: dict[str, Any] = {way: list(runs(job, folder, whole, way)) for way in WAYS if way in job}
    if "ops" in job:
        found["ops"] = ops_at_every_allocation()
    print(json.dumps(found))


def verify_problems(out: Path) -> list[str]:
    """Return what is wrong with what a failed run has left, which may be nothing at all."""
    there = out.parent.is_dir() and any(out.parent.iterdir())
    return verify(out).problems if there else []


if __name__ == "__main__":
    main()
