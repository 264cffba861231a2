"""The bits of one layer, strip-major ``uint32 [strips, N, strip_words]``, in memory or in a file.

Bit f % 32 of word f // 32 tells whether neuron f fires. A strip holds the bits of up to
32 * strip_words neurons for every row, so that one strip can be counted at a time when the bits of
a layer do not fit the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pyneurons._memory import aligned_zeros
from pyneurons.engine.scratch import ScratchFile

if TYPE_CHECKING:
    from pathlib import Path

STRIP_WORDS = 32


@dataclass(frozen=True)
class StripShape:
    """How F neurons are laid out in strips."""

    neurons: int
    strip_words: int

    @classmethod
    def of(cls, neurons: int, most_words: int = STRIP_WORDS) -> StripShape:
        """Return strips of at most ``most_words`` words."""
        return cls(neurons, min(most_words, -(-neurons // 32)))

    @property
    def strips(self) -> int:
        """Number of strips."""
        return -(-self.neurons // (32 * self.strip_words))

    def range(self, strip: int) -> tuple[int, int]:
        """Return the neurons [start, stop) of a strip."""
        width = 32 * self.strip_words
        return strip * width, min((strip + 1) * width, self.neurons)

    def bytes(self, rows: int) -> int:
        """Return the size of the bits of ``rows`` rows."""
        return 4 * self.strips * rows * self.strip_words


class Mask(Protocol):
    """Where a layer's bits are kept until its observers are done."""

    shape: StripShape
    lasting: bool
    """Whether a strip stays valid when another one is asked for."""

    def buffer(self, start: int, stop: int) -> np.ndarray:
        """Return [strips, stop - start, strip_words] to be filled for rows [start, stop)."""
        ...

    def commit(self, start: int, buffer: np.ndarray) -> None:
        """Keep a filled buffer."""
        ...

    def strip(self, strip: int) -> np.ndarray:
        """Return one strip, [N, strip_words]; valid until the next call unless `lasting`."""
        ...

    def close(self) -> None:
        """Release memory or disk."""
        ...


class MemoryMask:
    """The bits in memory; buffers are views, so that committing them costs nothing."""

    lasting = True

    def __init__(self, rows: int, shape: StripShape) -> None:
        self.shape = shape
        self._words = aligned_zeros((shape.strips, rows, shape.strip_words), np.uint32)

    def buffer(self, start: int, stop: int) -> np.ndarray:
        """Return the view of rows [start, stop)."""
        return self._words[:, start:stop]

    def commit(self, start: int, buffer: np.ndarray) -> None:
        """Do nothing: the buffer is the place itself."""

    def strip(self, strip: int) -> np.ndarray:
        """Return the view of one strip."""
        view: np.ndarray = self._words[strip]
        return view

    def close(self) -> None:
        """Release the memory."""
        self._words = np.zeros((0, 0, 0), dtype=np.uint32)


class FileMask:
    """The bits in a file; one strip is in memory while it is counted."""

    lasting = False

    def __init__(self, rows: int, shape: StripShape, directory: Path) -> None:
        self.shape = shape
        self._rows = rows
        self._file = ScratchFile(directory, shape.bytes(rows), "activation bits")
        self._strip: np.ndarray | None = None

    def _offset(self, strip: int, row: int) -> int:
        return 4 * self.shape.strip_words * (strip * self._rows + row)

    def buffer(self, start: int, stop: int) -> np.ndarray:
        """Return a zeroed buffer for rows [start, stop)."""
        return np.zeros((self.shape.strips, stop - start, self.shape.strip_words), dtype=np.uint32)

    def commit(self, start: int, buffer: np.ndarray) -> None:
        """Write a filled buffer, one piece for each strip; forget the strip that was read."""
        self._strip = None
        for strip in range(self.shape.strips):
            self._file.write(self._offset(strip, start), buffer[strip])

    def strip(self, strip: int) -> np.ndarray:
        """Read one strip into the one buffer that there is for it."""
        if self._strip is None:
            self._strip = aligned_zeros((self._rows, self.shape.strip_words), np.uint32)
        self._file.read(self._offset(strip, 0), self._strip)
        return self._strip

    def close(self) -> None:
        """Give memory and disk space back."""
        self._strip = None
        self._file.close()
