"""The residual stream of the whole corpus, in memory or in a file: float32 [N, D]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from pyneurons._memory import aligned_zeros
from pyneurons.engine.scratch import ScratchFile

if TYPE_CHECKING:
    from pathlib import Path


class Residual(Protocol):
    """Rows of the residual stream between two layers.

    Whether rows are read in place or from a file, they begin where `aligned_zeros` has them, and the
    arithmetic depends on a sequence alone: bits do not depend on where the residual is kept.
    """

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop), float32; writing them needs `write`."""
        ...

    def write(self, start: int, values: torch.Tensor) -> None:
        """Replace the rows from ``start`` on; ``values`` may be what `read` gave, changed."""
        ...

    def close(self) -> None:
        """Release memory or disk."""
        ...


class MemoryResidual:
    """The residual stream in memory: 4 N D bytes."""

    def __init__(self, rows: int, hidden: int) -> None:
        self._values = torch.from_numpy(aligned_zeros((rows, hidden), np.float32))

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) in place: a copy and back took 7 % of a bfloat16 forward."""
        return self._values[start:stop]

    def write(self, start: int, values: torch.Tensor) -> None:
        """Replace the rows from ``start`` on."""
        place = self._values[start : start + values.shape[0]]
        if values.data_ptr() != place.data_ptr():
            place.copy_(values)

    def close(self) -> None:
        """Release the memory."""
        self._values = torch.empty(0, 0)


class FileResidual:
    """The residual stream in a file, read and written micro-batch by micro-batch."""

    def __init__(self, rows: int, hidden: int, directory: Path) -> None:
        self._hidden = hidden
        self._file = ScratchFile(directory, 4 * rows * hidden, "residual stream")

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        values = torch.from_numpy(aligned_zeros((stop - start, self._hidden), np.float32))
        self._file.read(4 * start * self._hidden, values.numpy())
        return values

    def write(self, start: int, values: torch.Tensor) -> None:
        """Replace the rows from ``start`` on."""
        self._file.write(4 * start * self._hidden, np.ascontiguousarray(values.numpy()))

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()
