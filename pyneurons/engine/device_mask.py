"""The bits of one layer beside a device: there, in host memory or in a file.

Strip-major as in `pyneurons.engine.mask`, int32 [strips, N, strip_words], whose bits are those of
uint32. The kernels write a micro-batch's bits to the place itself, or to a buffer that is then copied;
to be counted a strip comes back to the device.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Generic

import numpy as np
import torch

from pyneurons.engine.device import EventType
from pyneurons.engine.scratch import ScratchFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from pyneurons.engine.device import Device, Stream
    from pyneurons.engine.mask import StripShape

STAGED: Final = 3
"""Buffers on the device for micro-batches whose bits go elsewhere."""

HELD_STRIPS: Final = 2
"""Strips on the device when the bits lie elsewhere: one is counted, the next one comes."""


class DeviceMask(Generic[EventType]):
    """Takes the bits of each micro-batch and gives strips, all of it on the device.

    `rows`, `commit` and `strip` are called by one thread. A strip is asked for when the compute stream
    has finished the layer and `finish` was called.

    Parameters
    ----------
    device : Device
    compute : Stream
        Writes the bits.
    rows : int
        N.
    shape : StripShape
    place : {"device", "host", "file"}
    most_rows : int
        Of a micro-batch.
    directory : Path
        Of the file.
    """

    def __init__(
        self,
        device: Device[EventType],
        compute: Stream[EventType],
        rows: int,
        shape: StripShape,
        place: str,
        most_rows: int,
        directory: Path,
    ) -> None:
        self.shape, self._rows, self._place, self._compute = shape, rows, place, compute
        self.lasting = place == "device"
        words, strips = shape.strip_words, shape.strips

        def bits(allocate: Callable[[int], Tensor], height: int, strips: int = strips) -> Tensor:
            memory = allocate(4 * strips * height * words)
            return memory.view(torch.int32).view(strips, height, words)

        self._resident = bits(device.allocate, rows if place == "device" else 0)
        self._host = bits(device.allocate_host, rows if place == "host" else 0)
        self._slots: list[Tensor] = []
        self._strips: list[Tensor] = []
        self._file: ScratchFile | None = None
        if place != "device":
            self._slots = [bits(device.allocate, most_rows) for _ in range(STAGED)]
            self._strips = list(bits(device.allocate, rows, min(HELD_STRIPS, strips)))
            self._in, self._out = device.stream("bits in"), device.stream("bits out")
        if place == "file":
            self._file = ScratchFile(directory, shape.bytes(rows), "activation bits")
            self._written = bits(device.allocate_host, most_rows)
            self._read = bits(device.allocate_host, rows, 1)[0]
        self._mover = ThreadPoolExecutor(1, thread_name_prefix="pyneurons-bits")
        self._slot_of: dict[int, int] = {}  # of a micro-batch, by its first row
        self._emptied: dict[int, Future[EventType]] = {}
        self._coming: dict[int, Future[EventType]] = {}
        self._brought: EventType | None = None
        self._next = 0

    def rows(self, begin: int, end: int) -> Tensor:
        """Return int32 [strips, m, strip_words] for rows [begin, end), to be written by the compute stream."""
        if self._place == "device":
            return self._resident[:, begin:end]
        slot = self._next % len(self._slots)
        self._next += 1
        self._slot_of[begin] = slot
        if slot in self._emptied:
            self._compute.wait(self._emptied[slot].result())
        return self._slots[slot][:, : end - begin]

    def commit(self, begin: int, end: int) -> None:
        """Say that the compute stream was given all that writes rows [begin, end)."""
        if self._place == "device":
            return
        slot = self._slot_of.pop(begin)
        done = self._compute.record()
        self._emptied[slot] = self._mover.submit(self._download, slot, begin, end, done)

    def finish(self) -> None:
        """Return when the bits are where they are kept; raise what went wrong on the way."""
        for emptied in self._emptied.values():
            emptied.result().wait_on_host()
        self._coming.clear()

    def strip(self, strip: int) -> Tensor:
        """Return one strip on the device, int32 [N, strip_words].

        Elsewhere kept, it is valid until the next but one is asked for. Waits until it is there.
        """
        if self._place == "device":
            return self._resident[strip]
        coming = self._coming.pop(strip, None) or self._mover.submit(self._bring, strip)
        coming.result().wait_on_host()
        after = strip + 1
        if after < self.shape.strips:
            self._coming = {after: self._mover.submit(self._bring, after)}
        return self._strips[strip % len(self._strips)]

    def close(self) -> None:
        """Give memory and disk space back."""
        self._mover.shutdown(wait=True, cancel_futures=True)
        if self._brought is not None:
            self._brought.wait_on_host()
        if self._file is not None:
            self._file.close()

    def _offset(self, strip: int, row: int) -> int:
        return 4 * self.shape.strip_words * (strip * self._rows + row)

    def _download(self, slot: int, begin: int, end: int, done: EventType) -> EventType:
        self._out.wait(done)
        height = end - begin
        for strip in range(self.shape.strips):
            target = self._host[strip, begin:end] if self._file is None else self._written[strip]
            self._out.copy(self._slots[slot][strip, :height], target[:height])
        event = self._out.record()
        if self._file is not None:
            event.wait_on_host()
            for strip in range(self.shape.strips):
                self._file.write(self._offset(strip, begin), self._written[strip, :height].numpy())
        return event

    def _bring(self, strip: int) -> EventType:
        if self._file is None:
            source = self._host[strip]
        else:
            source = self._read
            if self._brought is not None:
                self._brought.wait_on_host()
            self._file.read(self._offset(strip, 0), source.numpy())
        self._in.copy(source, self._strips[strip % len(self._strips)])
        self._brought = self._in.record()
        return self._brought


class HostStrips:
    """The strips of a mask on the host, for what is written or compared there."""

    def __init__(self, mask: DeviceMask[EventType]) -> None:
        self.shape = mask.shape
        self._mask = mask

    def strip(self, strip: int) -> np.ndarray:
        """Return one strip, uint32 [N, strip_words]."""
        words: np.ndarray = self._mask.strip(strip).cpu().numpy().view(np.uint32)
        return words
