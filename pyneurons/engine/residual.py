"""The residual stream of the whole corpus, in memory or in a file: float32 [N, D]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from pyneurons._memory import aligned_zeros
from pyneurons.engine.checkpoints import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyneurons.engine.checkpoints import Checkpoints
    from pyneurons.engine.scratch import ArrayFile


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

    def turn(self) -> None:
        """Say that a layer is through: what it wrote is what the next one reads."""
        ...

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield first row and rows of all that `Checkpoints.keep` has to write."""
        ...

    def load(self, checkpoints: Checkpoints) -> None:
        """Take the rows over from the boundary that the run starts with."""
        ...

    def kept(self) -> None:
        """Say that what stands was committed."""
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

    def turn(self) -> None:
        """Do nothing: rows are written where they are read."""

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all rows, in place."""
        for start, stop in blocks(*self._values.shape):
            yield start, self._values[start:stop].numpy()

    def load(self, checkpoints: Checkpoints) -> None:
        """Read all rows."""
        for start, stop in blocks(*self._values.shape):
            checkpoints.read(start, self._values[start:stop].numpy())

    def kept(self) -> None:
        """Do nothing: a copy was committed."""

    def close(self) -> None:
        """Release the memory."""
        self._values = torch.empty(0, 0)


class FileResidual:
    """The residual stream in a file, read and written micro-batch by micro-batch."""

    def __init__(self, rows: int, hidden: int, file: ArrayFile) -> None:
        self._rows, self._hidden = rows, hidden
        self._from = self._into = file

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        values = torch.from_numpy(aligned_zeros((stop - start, self._hidden), np.float32))
        self._from.read(4 * start * self._hidden, values.numpy())
        return values

    def write(self, start: int, values: torch.Tensor) -> None:
        """Replace the rows from ``start`` on."""
        self._into.write(4 * start * self._hidden, np.ascontiguousarray(values.numpy()))

    def turn(self) -> None:
        """Do nothing: rows are written where they are read."""

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all rows, read for this."""
        for start, stop in blocks(self._rows, self._hidden):
            yield start, self.read(start, stop).numpy()

    def load(self, checkpoints: Checkpoints) -> None:
        """Copy all rows."""
        for start, stop in blocks(self._rows, self._hidden):
            values = np.empty((stop - start, self._hidden), np.float32)
            checkpoints.read(start, values)
            self._into.write(4 * start * self._hidden, values)

    def kept(self) -> None:
        """Do nothing: a copy was committed."""

    def close(self) -> None:
        """Let go of the file."""
        self._from.close()


class AlternatingResidual(FileResidual):
    """The residual stream in the two files of `Checkpoints`: no boundary costs a copy.

    A layer reads the file that was committed last and writes the other; the layers that follow read
    and write that one, until it is committed.
    """

    def __init__(self, rows: int, hidden: int, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        spare = checkpoints.spare()
        super().__init__(rows, hidden, checkpoints.file(spare))
        if checkpoints.slot is not None:
            self._from = checkpoints.file(checkpoints.slot)

    def turn(self) -> None:
        """Read what was written; write what is not committed."""
        self._from = self._into

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield nothing: the rows lie in the file already."""
        return iter(())

    def kept(self) -> None:
        """Write the other file from here on."""
        self._into = self._checkpoints.file(self._checkpoints.spare())

    def load(self, checkpoints: Checkpoints) -> None:
        """Do nothing: the rows are read where they lie."""

    def close(self) -> None:
        """Do nothing: the files are those of `Checkpoints`."""
