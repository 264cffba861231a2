"""What is made of arrays that do not change, kept while they are held: copies on a device above all.

An array is known by its memory: a view of the same elements, or the tensor that shares them, finds what
was kept. Used by the backends of devices; `pyneurons.ops.hold` is the way in.
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    import numpy.typing as npt

Made = TypeVar("Made")


class _Held:
    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array  # its memory is no other's as long as it is here
        self.holders = 0
        self.made: dict[Hashable, Any] = {}


_held: dict[Hashable, _Held] = {}
_lock = Lock()


@contextmanager
def hold(arrays: Iterable[npt.NDArray[Any]]) -> Iterator[None]:
    """Keep what is made of these arrays until the block ends; they must not change meanwhile."""
    kept = [(_memory(array), array) for array in arrays]
    with _lock:
        for memory, array in kept:
            _held.setdefault(memory, _Held(array)).holders += 1
    try:
        yield
    finally:
        with _lock:
            for memory, _ in kept:
                _held[memory].holders -= 1
                if _held[memory].holders == 0:
                    del _held[memory]


def made_of(array: npt.NDArray[Any], what: Hashable, make: Callable[[], Made]) -> Made:
    """Return ``make()``: for an array that is held, what it returned before under this name."""
    held = _held.get(_memory(array)) if _held else None
    if held is None:
        return make()
    if what not in held.made:
        held.made[what] = make()
    made: Made = held.made[what]
    return made


def _memory(array: npt.NDArray[Any]) -> Hashable:
    interface = array.__array_interface__
    return interface["data"][0], array.shape, array.strides, array.itemsize
