"""Errors of the libraries below that mean: no memory, no thread, or a device that is lost.

torch, Arrow, the readers of safetensors and the system's threads say so by errors of their own kinds,
and by their words alone.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pyneurons.errors import DeviceError, PyneuronsError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_MEMORY: Final = re.compile(
    r"std::bad_alloc|can.t allocate memory|[Cc]annot allocate memory|out.of.memory|ALLOC_FAILED|"
    r"failed to map segment|can't start new thread|Failed to launch worker thread|"
    r"Resource temporarily unavailable|could not create a (primitive|memory)"
)
# After these CUDA refuses everything that the process asks for.
_DEVICE_LOST: Final = re.compile(
    r"(?s)CUDA.*(illegal (memory access|instruction)|misaligned address|device-side assert|"
    r"unspecified launch failure|launch timed out|hardware stack error|invalid program counter|"
    r"invalid address space|uncorrectable|ECC error|is lost|unknown error)|CUBLAS_STATUS_EXECUTION_FAILED"
)


def no_memory(error: BaseException) -> bool:
    """Whether an error means that there was no memory, or no thread, to be had."""
    if isinstance(error, PyneuronsError) or not isinstance(error, Exception):
        return False
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def device_lost(error: BaseException) -> bool:
    """Whether an error is one after which a process cannot use its GPU any more."""
    return (
        isinstance(error, RuntimeError)
        and not no_memory(error)
        and _DEVICE_LOST.search(str(error)) is not None
    )


@contextmanager
def told(advice: str) -> Iterator[None]:
    """Raise what libraries say of missing memory and lost devices as errors of ours.

    Parameters
    ----------
    advice : str
        What to do where memory is missing.

    Raises
    ------
    ResourceError
        No memory; MemoryError stays what it is.
    DeviceError
        A GPU that failed.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        words = str(error).strip().splitlines()
        first = words[0] if words else type(error).__name__
        if no_memory(error):
            message = f"out of memory ({first}); {advice}"
            raise ResourceError(message) from error
        if device_lost(error):
            message = (
                f"the GPU failed ({first}), and this process cannot use it any more; a run with out= "
                "goes on with the same command"
            )
            raise DeviceError(message) from error
        raise
