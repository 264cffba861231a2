"""What this machine can do at most, measured: the ceilings that results are shares of.

AMX from L1 on random data, one large product of torch in bfloat16 and in float32, and reading from
each cache and from memory. `ceilings.cpp` is built with the system's C++ compiler into a temporary
folder; where that fails, or the processor has no AMX, the ceiling is None and says why.
"""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyneurons import _core

if TYPE_CHECKING:
    import numpy as np

SOURCE = Path(__file__).parent / "ceilings.cpp"
FLAGS = ("-std=c++20", "-O3", "-march=native", "-shared", "-fPIC", "-pthread")
COMPILERS = ("c++", "g++", "clang++")

AMX_ELEMENTS = 32 * 512
"""Elements of bfloat16 that one thread multiplies over and over: 32 KiB."""

MEMORY_BYTES = 1 << 30
"""More than any cache: what `from memory` means here."""

SECONDS = 0.02
"""How long one measurement takes: about as long as one call of an op at OPT-125m's shape."""


@dataclass(frozen=True)
class Ceilings:
    """The compiled functions, or why there are none."""

    library: ctypes.CDLL | None
    why_not: str | None

    def amx(self, threads: int, seconds: float = SECONDS) -> float | None:
        """Return operations a second of AMX on random bfloat16 from L1, or None."""
        if self.library is None or "amx" not in _core.isas():
            return None
        rate = self.library.amx_flops(_random_bfloat16(threads).ctypes.data, threads, seconds)
        return float(rate) if rate > 0 else None

    def read(self, data: np.ndarray, threads: int, seconds: float = SECONDS) -> float | None:
        """Return bytes a second of reading an array, each thread its share, in order."""
        if self.library is None:
            return None
        total = ctypes.c_uint64()
        lines = data.nbytes // 64 // (8 * threads) * 8 * threads
        return float(
            self.library.read_bytes(data.ctypes.data, lines, threads, seconds, ctypes.byref(total))
        )


def on(threads: int) -> str:
    """Write how many threads there are."""
    return "1 thread" if threads == 1 else f"{threads} threads"


@cache
def ceilings() -> Ceilings:
    """Compile `ceilings.cpp` once for this process."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        return Ceilings(None, f"none of {', '.join(COMPILERS)} is installed")
    folder = Path(tempfile.mkdtemp(prefix="pyneurons-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / "ceilings.so"
    built = subprocess.run(
        [compiler, *FLAGS, str(SOURCE), "-o", str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        return Ceilings(None, f"{compiler} does not build it: {built.stderr.strip()[:300]}")
    library = ctypes.CDLL(str(target))
    library.amx_flops.restype = ctypes.c_double
    library.amx_flops.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_double]
    library.read_bytes.restype = ctypes.c_double
    library.read_bytes.argtypes = [
        ctypes.c_void_p,
        ctypes.c_ssize_t,
        ctypes.c_int,
        ctypes.c_double,
        ctypes.POINTER(ctypes.c_uint64),
    ]
    return Ceilings(library, None)


def why_no_amx() -> str | None:
    """Return why there is no peak of AMX to measure, or None where there is one."""
    if "amx" not in _core.isas():
        return "this processor or operating system does not run AMX"
    if ceilings().library is None:
        return ceilings().why_not
    return None if ceilings().amx(1) else "the system does not give this process the tiles of AMX"


def gemm(dtype: torch.dtype, size: int) -> float:
    """Return operations a second of torch's product of two random square matrices."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    out = torch.empty(size, size, dtype=dtype)
    torch.mm(a, b, out=out)
    began = time.perf_counter()
    torch.mm(a, b, out=out)
    return 2 * size**3 / (time.perf_counter() - began)


@cache
def _random_bfloat16(threads: int) -> np.ndarray:
    """Random data: on zeros, AMX is a fifth faster than on anything that needs multiplying."""
    elements = torch.randn(threads * AMX_ELEMENTS + 32).to(torch.bfloat16).view(torch.uint16)
    whole = elements.numpy()
    begin = -(whole.ctypes.data // 2) % 32
    return whole[begin : begin + threads * AMX_ELEMENTS]
