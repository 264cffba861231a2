"""compute-sanitizer over the small ops: memcheck and racecheck."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from device.part import Part, PartFailed, run
from pyneurons import backends

TOOLS: Final = ("memcheck", "racecheck")
BACKENDS: Final = ("cuda", "triton")
FOUND: Final = 86
"""The exit code by which the tool says that it found something."""

SECONDS: Final = 40
"""Of one run at most."""


def sanitizer() -> str | None:
    """Return the tool, from the path or beside nvcc."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    homes += [str(Path(nvcc).resolve().parent.parent)] if nvcc else []
    folders = [str(Path(home) / "bin") for home in homes if home]
    return shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.pathsep.join(folders)
    )


def measure(part: Part) -> None:
    """Run every tool over every backend that is there."""
    tool = sanitizer()
    failed = []
    for backend in BACKENDS:
        reason = backends.why_not(backend)
        program = [sys.executable, "-m", "device.small_ops", backend]
        for check in TOOLS:
            if reason is not None:
                part.absent("sanitizer", reason, backend=backend, tool=check)
                continue
            if part.toy or tool is None:
                why = "there is no GPU" if part.toy else "compute-sanitizer is not installed"
                part.absent("sanitizer", why, backend=backend, tool=check)
                continue
            if not part.in_time("sanitizer", 5, backend=backend, tool=check):
                continue
            began = time.perf_counter()
            # Without its cache torch allocates every tensor by itself: a step past its end is seen.
            command = [tool, "--tool", check, "--target-processes", "all"]
            command += ["--error-exitcode", str(FOUND), *program]
            try:
                done = subprocess.run(
                    command,
                    check=False,
                    capture_output=True,
                    text=True,
                    env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                    timeout=min(SECONDS, part.left() - 1),
                )
            except subprocess.TimeoutExpired as stopped:
                part.absent(
                    "sanitizer",
                    f"stopped after {stopped.timeout:.0f} s",
                    backend=backend,
                    tool=check,
                )
                continue
            clean = done.returncode == 0
            summary = [line for line in done.stdout.splitlines() if "SUMMARY" in line]
            part.record(
                "sanitizer",
                backend=backend,
                tool=check,
                status=done.returncode,
                summary=summary[-1].strip("= ") if summary else None,
                wall_s=round(time.perf_counter() - began, 1),
            )
            if not clean:
                failed.append(f"{check} on {backend}")
                print(done.stdout[-3000:], done.stderr[-1000:])
        if part.toy and reason is None:
            subprocess.run(program, check=True)
    if failed:
        message = f"compute-sanitizer: {', '.join(failed)}"
        raise PartFailed(message)


if __name__ == "__main__":
    run(measure)
