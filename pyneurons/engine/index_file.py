"""N-gram indices in files, of which one at a time is in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyneurons.corpus.ngram_index import NgramIndex
from pyneurons.engine.scratch import ScratchFile

if TYPE_CHECKING:
    from pathlib import Path

    from pyneurons.corpus.ngram_index import KeptIndex

_ARRAYS = ("segments", "order", "rank", "uncountable")  # the one of 8 bytes first, for alignment


class IndexFiles:
    """Keeps indices in scratch files and reads them into one buffer, made for the largest.

    Cost of a read: the bytes of the index, from the page cache while the system has room for it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: list[ScratchFile] = []
        self._buffer = np.zeros(0, dtype=np.uint8)
        self._held: tuple[ScratchFile, NgramIndex] | None = None

    def keep(self, index: KeptIndex) -> IndexInFile:
        """Write an index to a file of its own."""
        arrays = index.load()
        file = ScratchFile(self._directory, arrays.nbytes, f"index of {index.n}-grams")
        self._files.append(file)
        layout = []
        offset = 0
        for name in _ARRAYS:
            array: np.ndarray = getattr(arrays, name)
            if array.size:
                file.write(offset, array)
            layout.append((name, array.dtype, array.size, offset))
            offset += array.nbytes
        return IndexInFile(index.n, offset, index.spectrum, self, file, tuple(layout))

    def read(self, kept: IndexInFile) -> NgramIndex:
        """Return an index, in the place of the one read before."""
        if self._held is None or self._held[0] is not kept.file:
            if self._buffer.size < kept.nbytes:
                self._held = None
                self._buffer = np.zeros(0, dtype=np.uint8)
                self._buffer = np.empty(kept.nbytes, dtype=np.uint8)
            if kept.nbytes:
                kept.file.read(0, self._buffer[: kept.nbytes])
            arrays = {
                name: self._buffer[offset : offset + size * dtype.itemsize].view(dtype)
                for name, dtype, size, offset in kept.layout
            }
            self._held = kept.file, NgramIndex(n=kept.n, **arrays)
        return self._held[1]

    def close(self) -> None:
        """Give memory and disk space back."""
        self._held, self._buffer = None, np.zeros(0, dtype=np.uint8)
        for file in self._files:
            file.close()


@dataclass(frozen=True, eq=False)
class IndexInFile:
    """One index of `IndexFiles`."""

    n: int
    nbytes: int
    spectrum: tuple[np.ndarray, np.ndarray]
    files: IndexFiles
    file: ScratchFile
    layout: tuple[tuple[str, np.dtype, int, int], ...]

    def load(self) -> NgramIndex:
        """Read it, unless it was the last one read."""
        return self.files.read(self)
