"""The package from its sources by this Python's own tools: nothing is fetched, nothing isolated."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from device.part import Part, PartFailed, run

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PLACE: Final = ROOT / "build" / "device"
TOOLS: Final = ("pip", "scikit_build_core", "pybind11", "numpy", "torch")

PROBE: Final = """
import pyneurons
from pyneurons import backends
print(pyneurons.__file__)
print(*(f"{name}: {backends.why_not(name) or 'runs'}" for name in ("cpp", "triton", "cuda")), sep="\\n")
"""


def architecture() -> str | None:
    """Return for what nvcc compiles here: this card alone; None without a card."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    # The names that CMakeLists.txt has: the instructions of Hopper need the a; 8.6 and 8.9 run code
    # for 8.0.
    return {8: "80-real", 9: "90a-real", 10: "100-real", 12: "120-real"}.get(
        major, f"{major}{minor}"
    )


def measure(part: Part) -> None:
    """Install into a folder beside the sources, and say which backends run from there."""
    missing = [name for name in TOOLS if importlib.util.find_spec(name) is None]
    if missing:
        message = f"this Python lacks {', '.join(missing)}"
        raise PartFailed(message)
    nvcc = shutil.which("nvcc")
    target = architecture()
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--upgrade", "--target", str(PLACE / "site"), str(ROOT)]
    command += ["-C", f"build-dir={PLACE / 'cmake'}"]
    if nvcc and target:
        command += ["-C", "cmake.define.PYNEURONS_CUDA=ON"]
        command += ["-C", f"cmake.define.PYNEURONS_CUDA_ARCHITECTURES={target}"]
    began = time.perf_counter()
    done = subprocess.run(command, check=False)
    seconds = round(time.perf_counter() - began, 1)
    part.record("build", wall_s=seconds, cuda=target if nvcc else None, status=done.returncode)
    if done.returncode:
        message = "the package was not built"
        raise PartFailed(message)
    if target and not nvcc:
        part.absent("cuda", "there is no nvcc: the backend cuda is not built")
    probe = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=False
    )
    file, *found = probe.stdout.splitlines() or [""]
    part.record("backends", found=found)
    if probe.returncode or not file.startswith(str(PLACE)):
        message = (
            f"the package of this build is not the one that is imported: {file} {probe.stderr}"
        )
        raise PartFailed(message)


if __name__ == "__main__":
    run(measure)
