"""Who computes the ops: a registry that is data, and the choice among its entries.

A backend is asked for by name (argument, then ``PYNEURONS_BACKEND``) or chosen (`DEFAULT`). One
that was asked for and cannot run raises `BackendUnavailable` with the reason: there is no fallback.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pyneurons import _env
from pyneurons.errors import BackendUnavailable

Op = Callable[..., None]


@dataclass(frozen=True)
class Backend:
    """The ops of one backend, all with the arguments of `pyneurons.ops`, checked, and `threads`.

    Arrays are NumPy arrays. The ops named in ``on_device`` take tensors of ``device`` as well, in the place
    of any array that the checks need not read; `ffn` gets tensors of either.
    ``isa`` names the instruction set that runs, or None where that has no meaning.
    ``float32_products`` says how a float32 scan multiplies matrices: ``"torch"``, or ``"split"``, by
    parts of bfloat16 (`linear`), where that is the faster one. ``float16``: whether `ffn` takes it.
    """

    name: str
    isa: str | None
    segment_counts: Op
    firing_rows: Op
    first_segments: Op
    ngram_keys: Op
    ngram_coverage: Op
    ngram_triggers: Op
    layer_norm: Op
    ffn: Op
    attention: Op
    linear: Op
    float32_products: str
    device: str = "cpu"
    on_device: frozenset[str] = frozenset()
    float16: bool = False


@dataclass(frozen=True)
class Entry:
    """One line of the registry.

    ``module`` has ``load(name) -> Backend``, which raises `BackendUnavailable` with the reason
    where the backend cannot run.
    """

    name: str
    module: str
    description: str


REGISTRY: Final = (
    Entry("reference", "pyneurons.backends.reference", "plain NumPy and torch, the truth"),
    Entry("cpp", "pyneurons.backends.cpp", "C++, the best instruction set of this processor"),
    Entry("cpp:scalar", "pyneurons.backends.cpp", "C++ without vector instructions"),
    Entry("cpp:avx2", "pyneurons.backends.cpp", "C++ with AVX2"),
    Entry("cpp:avx512", "pyneurons.backends.cpp", "C++ with AVX-512 F, BW, DQ and VL"),
    Entry("cpp:avx512bf16", "pyneurons.backends.cpp", "C++ with AVX512-BF16 as well"),
    Entry("cpp:amx", "pyneurons.backends.cpp", "C++ with AVX-512 and the tiles of AMX"),
    Entry("cuda", "pyneurons.backends.cuda", "counting by CUDA C++, other ops as triton, or cpp"),
    Entry("torch", "pyneurons.backends.torch", "float32 products by torch, the rest as cpp"),
    Entry("triton", "pyneurons.backends.triton", "ffn and counting on a CUDA device, by Triton"),
)

DEFAULT: Final = "cpp"


def names() -> list[str]:
    """Return the names of all backends there are, available or not."""
    return [entry.name for entry in REGISTRY]


def why_not(name: str) -> str | None:
    """Return why a backend cannot run here, or None when it can."""
    try:
        resolve(name)
    except BackendUnavailable as error:
        return str(error)
    return None


def available() -> list[str]:
    """Return the names of the backends that can run here."""
    return [entry.name for entry in REGISTRY if why_not(entry.name) is None]


def resolve(name: str | None = None) -> Backend:
    """Return the backend of that name.

    Parameters
    ----------
    name : str, optional
        A name from `names`. Without one: ``PYNEURONS_BACKEND``, then `DEFAULT`.

    Raises
    ------
    BackendUnavailable
        If there is no such backend, or it cannot run here; the message has the reason.
    """
    return _load(name or _env.backend() or DEFAULT, _env.isa())


@lru_cache(maxsize=32)
def _load(name: str, isa: str | None) -> Backend:
    """Load an entry; `isa` narrows the entry ``cpp`` and is part of the key for that reason."""
    entry = {entry.name: entry for entry in REGISTRY}.get(name)
    if entry is None:
        message = f"backend {name!r} does not exist; there are {', '.join(names())}"
        raise BackendUnavailable(message)
    wanted = f"cpp:{isa}" if name == "cpp" and isa is not None else name
    loaded: Backend = importlib.import_module(entry.module).load(wanted)
    return loaded
