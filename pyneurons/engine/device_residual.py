"""The residual stream beside a device: its first rows there, the next in host memory, the last in a file.

A pass over a layer takes micro-batch after micro-batch and gives each back. What lies on the device is
lent as it is. What lies elsewhere goes through a ring of buffers on the device: one is filled, one is
computed on, one is emptied, each copy in a stream of its own. These are all the waits there are:

- the upload, before it fills a buffer: for the download out of it;
- the upload of a micro-batch, before it reads the host's rows: for their download in the layer before;
- the compute stream, before it reads a buffer: for the upload into it;
- the download, before it reads a buffer: for what was given to the compute stream before that.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic

import torch

from pyneurons.engine.device import EventType
from pyneurons.engine.scratch import ScratchFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from pyneurons.engine.device import Device, Stream

STAGED: Final = 3
"""Buffers on the device for micro-batches that lie elsewhere."""


@dataclass(frozen=True)
class RowPlaces:
    """How many micro-batches lie where, in this order."""

    device: int
    host: int
    file: int

    @classmethod
    def of(cls, batches: Sequence[tuple[int, int]], rows: dict[str, int]) -> RowPlaces:
        """Place whole micro-batches, rows [begin, end) each, within what a plan gives each place."""
        device = sum(end <= rows["device"] for _, end in batches)
        first = batches[device][0] if device < len(batches) else 0
        # Without a file the host takes all the rest: less than a batch more, for batches are not full.
        near = sum(end <= first + rows["host"] for _, end in batches)
        host = near - device if rows["file"] else len(batches) - device
        return cls(device, host, len(batches) - device - host)


class DeviceResidual(Generic[EventType]):
    """Lends the rows of each micro-batch, float32 [m, D], on the device.

    `begin`, `take` and `give_back` are called by one thread, the micro-batches in order.

    Parameters
    ----------
    device : Device
    compute : Stream
        Reads and writes what is lent.
    batches : sequence of (int, int)
        Rows [begin, end) of each micro-batch.
    most_rows, hidden : int
        Rows of the largest micro-batch, and D.
    places : RowPlaces
    directory : Path
        Of the file.
    """

    def __init__(
        self,
        device: Device[EventType],
        compute: Stream[EventType],
        batches: Sequence[tuple[int, int]],
        most_rows: int,
        hidden: int,
        places: RowPlaces,
        directory: Path,
    ) -> None:
        self._compute, self._batches, self._hidden = compute, list(batches), hidden
        self._near = places.device
        self._filed = places.device + places.host
        self._moved = len(self._batches) - places.device
        rows = [begin for begin, _ in self._batches]
        rows.append(self._batches[-1][1] if self._batches else 0)
        self._first_host, self._first_file = rows[self._near], rows[self._filed]

        def floats(allocate: Callable[[int], Tensor], number: int) -> Tensor:
            return allocate(4 * number * hidden).view(torch.float32).view(number, hidden)

        self._resident = floats(device.allocate, self._first_host)
        self._host = floats(device.allocate_host, self._first_file - self._first_host)
        staged = min(STAGED, self._moved)
        self._slots = [floats(device.allocate, most_rows) for _ in range(staged)]
        self._file: ScratchFile | None = None
        if places.file:
            size = 4 * (rows[-1] - self._first_file) * hidden
            self._file = ScratchFile(directory, size, "residual stream")
            self._read_from, self._written = (
                floats(device.allocate_host, most_rows) for _ in range(2)
            )
        self._read_from_free: EventType | None = None
        if self._moved:
            self._in, self._out = device.stream("residual in"), device.stream("residual out")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="pyneurons-residual-in")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="pyneurons-residual-out")
        self._up: dict[int, Future[EventType | None]] = {}
        self._down: dict[int, Future[EventType]] = {}  # of each micro-batch elsewhere, the last
        self._emptied: dict[int, Future[EventType]] = {}  # of each slot, the last
        self._reading = False

    def begin(self, *, reading: bool) -> None:
        """Start a pass; without ``reading``, what is lent holds anything."""
        self._reading = reading
        for place in range(len(self._slots)):
            self._prefetch(place)

    def take(self, batch: int) -> Tensor:
        """Return the rows of a micro-batch; what the compute stream is given from here on may use them.

        Waits for the disk where the rows come from a file, never for the device.
        """
        begin, end = self._batches[batch]
        if batch < self._near:
            return self._resident[begin:end]
        place = batch - self._near
        event = self._up.pop(place).result()
        if event is not None:
            self._compute.wait(event)
        return self._slots[place % len(self._slots)][: end - begin]

    def give_back(self, batch: int, *, keep: bool) -> None:
        """Say that the compute stream was given all that uses a micro-batch; ``keep`` what it wrote."""
        if batch < self._near:
            return
        place = batch - self._near
        slot = place % len(self._slots)
        done = self._compute.record()
        emptied: Future[EventType]
        if keep:
            emptied = self._down[place] = self._writer.submit(self._download, batch, done)
        else:
            emptied = Future()
            emptied.set_result(done)
        self._emptied[slot] = emptied
        self._prefetch(place + len(self._slots))

    def finish(self) -> None:
        """Return when what was kept has left the device; raise what went wrong on the way."""
        for down in self._down.values():
            down.result()

    def close(self) -> None:
        """Give memory and disk space back."""
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._writer.shutdown(wait=True, cancel_futures=True)
        for down in self._down.values():
            if down.done() and not down.cancelled() and down.exception() is None:
                down.result().wait_on_host()
        if self._file is not None:
            self._file.close()

    def _prefetch(self, place: int) -> None:
        if place < self._moved:
            slot = place % len(self._slots)
            self._up[place] = self._reader.submit(
                self._upload, place, self._emptied.get(slot), self._down.get(place)
            )

    def _rows_of(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return the buffer on the device and the host's rows of a micro-batch that is not filed."""
        begin, end = self._batches[batch]
        slot = self._slots[(batch - self._near) % len(self._slots)]
        return slot[: end - begin], self._host[begin - self._first_host : end - self._first_host]

    def _offset(self, batch: int) -> int:
        return 4 * (self._batches[batch][0] - self._first_file) * self._hidden

    def _upload(
        self, place: int, emptied: Future[EventType] | None, written: Future[EventType] | None
    ) -> EventType | None:
        batch = self._near + place
        before = None if emptied is None else emptied.result()
        if not self._reading:
            # Nothing comes, but the buffer must be free for what the kernels write.
            return before
        slot, source = self._rows_of(batch)
        if self._file is not None and batch >= self._filed:
            if self._read_from_free is not None:
                self._read_from_free.wait_on_host()
            if written is not None:
                written.result()
            source = self._read_from[: len(slot)]
            self._file.read(self._offset(batch), source.numpy())
        elif written is not None:
            self._in.wait(written.result())
        if before is not None:
            self._in.wait(before)
        self._in.copy(source, slot)
        event = self._in.record()
        if batch >= self._filed:
            self._read_from_free = event
        return event

    def _download(self, batch: int, done: EventType) -> EventType:
        self._out.wait(done)
        slot, target = self._rows_of(batch)
        if self._file is None or batch < self._filed:
            self._out.copy(slot, target)
            return self._out.record()
        target = self._written[: len(slot)]
        self._out.copy(slot, target)
        event = self._out.record()
        event.wait_on_host()
        self._file.write(self._offset(batch), target.numpy())
        return event
