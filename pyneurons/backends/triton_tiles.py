"""How `ffn` in Triton is cut, for each architecture and shape: read from a file, never searched for.

``triton_tiles.json`` is a list of entries: an architecture (compute capability times 10; 0 is the
interpreter), the size of an element, the ranges of D and F that it is for (null: no end), the tiles,
and where they come from: "compiled code" (the largest tile whose epilogue keeps its sums in registers;
``bench/results/triton-*.md`` lists what each kernel takes), or "measured on CARD, DATE, COMMIT", as
`pyneurons.backends.triton_measure.measure_tiles` makes them. Nothing was measured yet.

Compiled code was looked at for 80 and 90, which the tests do, and for 120, where the tiles of 90 spill
nothing and fit its 99 KiB of shared memory. For 100 Triton 3.6 does not compile fc1's kernel.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from pyneurons.errors import BackendUnavailable

FILE: Final = Path(__file__).with_suffix(".json")

Variant: TypeAlias = Literal["pointer", "tma"]


@dataclass(frozen=True)
class Tiles:
    """How the two products of `ffn` are cut: rows, columns and terms of a tile, and how it runs.

    ``stages`` is for fc1; fc2 gets as many buffers in shared memory.

    ``variant`` "tma" reads operands by Hopper's tensor memory accelerator, in as many programs as the
    device has multiprocessors (``kernels/ffn_tma.py``): 16-bit elements, rows of D and F elements that
    are multiples of 16 bytes. It is stored for a shape only where it was measured to win.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    band: int = 8
    variant: Variant = "pointer"

    def fits(self, itemsize: int, *strides: int) -> bool:
        """Return whether rows so many elements apart can be read in this way."""
        if self.variant == "pointer":
            return True
        return itemsize == 2 and all(stride * itemsize % 16 == 0 for stride in strides)


@dataclass(frozen=True)
class Entry:
    """Tiles for an architecture, a size of elements, and ranges of D and F."""

    architecture: int
    itemsize: int
    inner: tuple[int, int | None]
    neurons: tuple[int, int | None]
    tiles: Tiles
    source: str

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Entry:
        """Make one of what the file holds; a field that does not exist is a TypeError."""
        least_inner, most_inner = stored["inner"]
        least_neurons, most_neurons = stored["neurons"]
        ranges = {"inner": (least_inner, most_inner), "neurons": (least_neurons, most_neurons)}
        return cls(**stored | ranges | {"tiles": Tiles(**stored["tiles"])})

    def holds(self, itemsize: int, inner: int, neurons: int) -> bool:
        """Return whether it is for this size of elements and shape."""
        ranges = ((inner, *self.inner), (neurons, *self.neurons))
        return (
            self.itemsize == itemsize
            and all(low <= size <= (high or size) for size, low, high in ranges)
            and self.tiles.fits(itemsize, inner, neurons)
        )


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """Return the stored configurations."""
    return tuple(Entry.of(stored) for stored in json.loads(FILE.read_text(encoding="utf-8")))


def entry(capability: int, itemsize: int, inner: int, neurons: int) -> Entry:
    """Return the stored configuration for a device and a shape.

    Parameters
    ----------
    capability : int
        Compute capability times 10; 0 for the interpreter.
    itemsize : int
        Bytes of an element of the compute dtype.
    inner, neurons : int
        D and F.

    Returns
    -------
    Entry
        Of those for this shape the ones with the highest architecture that is not above the
        device's, and of these the first.

    Raises
    ------
    BackendUnavailable
        Where none is stored: before architecture 80.
    """
    fitting = [
        one
        for one in entries()
        if one.holds(itemsize, inner, neurons)
        and one.architecture <= capability
        and (one.architecture == 0) == (capability == 0)
    ]
    if not fitting:
        message = (
            f"backend 'triton': no tiles are stored for compute capability {capability / 10}, "
            f"{itemsize} bytes an element, {neurons} x {inner}"
        )
        raise BackendUnavailable(message)
    return max(fitting, key=lambda one: one.architecture)
