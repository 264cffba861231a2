"""What is read from the environment.

================================  ==========================================================
``PYNEURONS_BACKEND``             name of the backend of every op (`pyneurons.backends`)
``PYNEURONS_ISA``                 instruction set behind the backend ``cpp``
``PYNEURONS_REQUIRE_BACKENDS``    comma-separated backends whose absence fails a test
``PYNEURONS_POISON``              1: on a device, weights that come too late are NaN
``PYNEURONS_FAILPOINT``           where a test makes a run fail (`pyneurons.failpoints`)
================================  ==========================================================

``TRITON_INTERPRET=1``, read by Triton when a kernel is first imported, runs the backend ``triton`` on
the CPU; the tests set it where there is no CUDA device.

``PYNEURONS_ASSUME_AMX``, read in ``csrc/core/cpu_features.cpp``, lists AMX where the processor does
not; without the emulator of ``tests/test_amx_emulated.py`` its kernels then end the process.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path


def backend() -> str | None:
    """Name of the backend asked for through the environment, or None."""
    return os.environ.get("PYNEURONS_BACKEND") or None


def isa() -> str | None:
    """Instruction set asked for through the environment, or None."""
    return os.environ.get("PYNEURONS_ISA") or None


def required_backends() -> frozenset[str]:
    """Backends that a test run must not skip."""
    names = os.environ.get("PYNEURONS_REQUIRE_BACKENDS", "")
    return frozenset(name.strip() for name in names.split(",") if name.strip())


def poison() -> bool:
    """Whether buffers of weights on a device are filled with NaN before and after use."""
    return os.environ.get("PYNEURONS_POISON", "") not in ("", "0")


def failpoint() -> str | None:
    """Where this process is to fail, or None."""
    return os.environ.get("PYNEURONS_FAILPOINT") or None


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _status_bytes(field: str) -> int | None:
    path = Path("/proc/self/status")
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def resident_bytes() -> int | None:
    """Resident memory of this process now (VmRSS), or None where the system does not tell."""
    return _status_bytes("VmRSS")


def virtual_bytes() -> int | None:
    """Address space of this process now (VmSize), or None where the system does not tell."""
    return _status_bytes("VmSize")


def peak_resident_bytes() -> int | None:
    """Largest resident memory of this process so far (VmHWM), or None."""
    return _status_bytes("VmHWM")


def available_bytes() -> int | None:
    """Memory that can be had without swapping (MemAvailable), or None."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def processor() -> str:
    """Model name of this processor, or the name of its architecture."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16)."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return False
    for line in path.read_text().splitlines():
        if line.startswith("flags"):
            return bool({"amx_bf16", "avx512_bf16"} & set(line.split()))
    return False
