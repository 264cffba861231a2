"""Which machine: what every record stands on, beside the commit."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from pyneurons import _core, _env, backends

CPP: Final = tuple(name for name in backends.available() if name.startswith("cpp:"))
"""Every instruction set that runs here."""

BEST: Final = f"cpp:{backends.resolve('cpp').isa}"
"""What a scan takes: rivals and ceilings that cost time stand beside this backend alone."""

_NOISE: Final = re.compile(r"\(r\)|\(tm\)|\bcpu\b|\bprocessor\b|@.*|\d+-core", re.IGNORECASE)


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {"model name": platform.processor() or platform.machine()}
    lines = path.read_text().split("\n\n", maxsplit=1)[0].splitlines()
    pairs = (line.split(":", maxsplit=1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def name() -> str:
    """Return a short name: the processor, its model number, the cores that there are.

    Virtual machines often hide the product name ("Intel(R) Xeon(R) Processor"), so that the model
    number tells generations apart.
    """
    info = _cpuinfo()
    words = _NOISE.sub(" ", info.get("model name", platform.machine()))
    model = f" model {info['model']}" if "model" in info else ""
    return re.sub(r"[^a-z0-9]+", "-", f"{words}{model} {cores()} cores".lower()).strip("-")


def cores() -> int:
    """Return how many processors this process may use."""
    return _env.cpu_count()


def facts() -> dict[str, Any]:
    """Describe machine and software, without a name of host, user or folder."""
    info = _cpuinfo()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": info.get("model name", platform.machine()),
        "family": info.get("cpu family"),
        "model": info.get("model"),
        "cores": cores(),
        "memory_gb": round(memory / 1e9, 1),
        "instruction_sets": _core.isas(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "numpy": version("numpy"),
    }
