"""The residual stream at layer boundaries, kept in two files by turns, so that a run goes on from there.

Counters of finished layers are in the ledger anyway; what a stopped run loses is its place in the
forward pass. One file holds the last boundary that is committed; the next is written to the other:

    drop the other's entry, write it, fsync, put its entry

so that at every moment one of the two is whole. A run whose residual stream lies in a file already
writes no copy: its layers read one file and write the other from the first layer after a commit on
(`pyneurons.engine.residual.AlternatingResidual`). Disk: twice the stream, 8 N D bytes.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from pyneurons import durable, failpoints
from pyneurons.engine.scratch import KeptFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyneurons.run_writer import RunWriter

WORTH: Final = 32
"""A boundary is kept when this many times what the last one cost has passed: at most 3 % of a run."""

BLOCK_BYTES: Final = 1 << 26


def blocks(rows: int, hidden: int) -> list[tuple[int, int]]:
    """Split rows of float32 [rows, hidden] into runs of at most `BLOCK_BYTES`."""
    step = max(1, BLOCK_BYTES // (4 * hidden))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


class Checkpoints:
    """Keeps residual streams, float32 [rows, hidden], and gives the last one that helps back.

    Parameters
    ----------
    writer : RunWriter
        Nothing is kept where it has no ledger.
    rows, hidden : int
        Rows of the corpus and, behind them, of the sample that is repeated in float32.
    minutes : float
        Between two boundaries that are kept; 0: each; inf: none.
    missing : sequence of int
        Layers without counters: the run starts at the last boundary before the first of them.

    Attributes
    ----------
    first : int
        The layer to start with.
    enabled : bool
    """

    def __init__(
        self, writer: RunWriter, rows: int, hidden: int, minutes: float, missing: Sequence[int]
    ) -> None:
        self.first = 0
        self.enabled = writer.ledger is not None and minutes != float("inf")
        self._ledger, self._folder = writer.ledger, writer.staging
        self._rows, self._stride = rows, 4 * hidden
        self._minutes, self._cost = minutes, 0.0
        self._last = time.monotonic()
        self._files: dict[int, KeptFile] = {}
        self.slot: int | None = None
        for slot in (0, 1):
            entry = writer.entries.get(_entry(slot))
            if entry is not None and missing:
                layer = int(entry.facts["layer"])
                if self.first < layer <= missing[0]:
                    self.first, self.slot = layer, slot

    def due(self) -> bool:
        """Whether a boundary is to be kept now."""
        passed = time.monotonic() - self._last
        if not self.enabled or self._minutes == 0:
            return self.enabled
        return passed >= max(60 * self._minutes, WORTH * self._cost)

    def short_of_room(self) -> str | None:
        """Say, before the run, when the disk has no room for both files; None where it has.

        No refusal: a run that is done before the first copy is due never writes one.
        """
        if not self.enabled:
            return None
        size = 2 * self._rows * self._stride
        there = sum(f.stat().st_size for f in self._folder.glob("residual-*.f32"))
        free = shutil.disk_usage(self._folder).free + there
        if free >= size:
            return None
        return (
            f"the copies of the residual stream, from which a run that is stopped goes on, take "
            f"{size / 1e9:,.1f} GB and the disk has {free / 1e9:,.1f} GB; make room, or pass "
            "checkpoint_minutes=inf (--checkpoint-minutes inf) to keep finished layers alone"
        )

    def spare(self) -> int:
        """Return the slot that may be written, its entry dropped: not the one committed last."""
        slot = 0 if self.slot is None else 1 - self.slot
        if self._ledger is not None:
            self._ledger.drop(_entry(slot))
        return slot

    def file(self, slot: int) -> KeptFile:
        """Return the file of a slot; makes it at its full size."""
        if slot not in self._files:
            size = self._rows * self._stride
            self._files[slot] = KeptFile(self._folder / _file(slot), size, "residual stream")
        return self._files[slot]

    def read(self, row: int, into: np.ndarray) -> None:
        """Fill rows of the boundary that the run starts with."""
        if self.slot is not None:
            self.file(self.slot).read(row * self._stride, into)

    def keep(self, layer: int, parts: Iterable[tuple[int, np.ndarray]]) -> None:
        """Commit the stream as it stands before ``layer``.

        Parameters
        ----------
        layer : int
        parts : iterable of (int, float32 [n, hidden])
            First row and rows of all that does not lie in the spare slot already.
        """
        if self._ledger is None:
            return
        began = time.monotonic()
        slot = self.spare()
        file = self.file(slot)
        for row, values in parts:
            failpoints.at("residual.write")
            file.write(row * self._stride, np.ascontiguousarray(values))
        file.sync()
        path = self._folder / _file(slot)
        digest = durable.sha256_of_blocks(path)
        said = {"bytes": file.size, "sha256_of_blocks": digest}
        durable.sync_folder(self._folder)
        self._ledger.put(_entry(slot), {path.name: said}, {"layer": layer})
        self.slot = slot
        self._last = time.monotonic()
        self._cost = self._last - began

    def close(self) -> None:
        """Let go of the files; they stay."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def drop(self) -> None:
        """Remove the files, when every layer is counted: what follows may need the room."""
        self.close()
        if self._ledger is None:
            return
        for slot in (0, 1):
            self._ledger.drop(_entry(slot))
            durable.remove(self._folder / _file(slot))


def _entry(slot: int) -> str:
    return f"residual-{slot}"


def _file(slot: int) -> str:
    return f"residual-{slot}.f32"
