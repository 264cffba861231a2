"""Weights on their way from disk to a device, two layers ahead of the one that computes.

A thread reads layer after layer into a ring of host buffers; a stream copies each into a ring of device
slots; the compute stream waits for the copy of the layer that it takes, and the copy for the layer that
had the slot before. These three waits are all there are:

- the host, before it reads into a buffer again: for the copy out of it;
- the copy stream, before it writes a slot: for the last kernel that reads the layer in it;
- the compute stream, before it reads a slot: for the copy into it.

The engine on the CPU reads through `pyneurons.engine.weights`, whose tensors are converted at once and
need no slots; this room serves the engine on a device (`pyneurons.engine.device_run`).
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Self

from pyneurons.engine.device import EventType
from pyneurons.model.checkpoint import DTYPES
from pyneurons.model.config import layer_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import torch
    from torch import Tensor

    from pyneurons.engine.device import Device, Stream
    from pyneurons.model.source import WeightSource

ALIGNMENT: Final = 256
"""Bytes on which each tensor of a slot begins: what CUDA's own allocator gives."""

READERS: Final = 4
"""Threads that read the tensors of one layer."""

POISON: Final = 0xFF
"""A byte that makes every float16, bfloat16 and float32 a NaN."""


@dataclass(frozen=True)
class LayerLayout:
    """Where the tensors of one layer lie in a slot."""

    places: dict[str, tuple[int, tuple[int, ...], torch.dtype]]  # offset, shape, dtype
    size: int

    @classmethod
    def of(cls, checkpoint: WeightSource, layer: int) -> LayerLayout:
        """Return the layout of a layer in the checkpoint's own dtypes."""
        places: dict[str, tuple[int, tuple[int, ...], torch.dtype]] = {}
        offset = 0
        for name in checkpoint.config.layer_shapes():
            entry = checkpoint.tensors[layer_name(layer, name)]
            places[name] = (offset, entry.shape, DTYPES[entry.dtype])
            offset += -(-entry.bytes // ALIGNMENT) * ALIGNMENT
        return cls(places, offset)

    def views(self, slot: Tensor) -> dict[str, Tensor]:
        """Return the tensors that lie in a slot, uint8 [at least size]."""
        return {
            name: slot[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
            for name, (offset, shape, dtype) in self.places.items()
        }


class WeightRing(Generic[EventType]):
    """Hands out layers 0, 1, 2, ... in device memory, each read and copied once.

    `take` and `give_back` are called by one thread, in the order of the layers; what reads the weights
    is given to ``compute`` between the two. Neither waits for the device.

    Parameters
    ----------
    device : Device
    compute : Stream
        Reads the slots.
    read : callable
        ``read(layer, buffer)`` fills a host buffer, uint8 [size]; it is called by one thread.
    layers, size : int
        Number of layers, and bytes of the largest.
    slots : int
        In host and device memory each: with 3, one layer computes and two come.
    poison : bool
        Fill slots and buffers with NaN before they are filled and after they were read, so that
        weights that come too late, or stay too long, do not look like weights. Costs a pass over
        each slot twice a layer.
    """

    def __init__(
        self,
        device: Device[EventType],
        compute: Stream[EventType],
        read: Callable[[int, Tensor], None],
        layers: int,
        size: int,
        *,
        slots: int = 3,
        poison: bool = False,
    ) -> None:
        self._compute, self._read, self._layers = compute, read, layers
        self._copy = device.stream("copy")
        self._poison = poison
        self._host = [device.allocate_host(size) for _ in range(slots)]
        self._slots = [device.allocate(size) for _ in range(slots)]
        self._copied: list[EventType] = []
        self._freed: list[EventType] = []
        self._taken = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._stopped = False
        self._reader = threading.Thread(target=self._guarded, name="pyneurons-ring", daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._reader.join()
        # The buffers may go only when nothing is copied out of them any more.
        if self._copied:
            self._copied[-1].wait_on_host()

    def take(self, layer: int) -> Tensor:
        """Return the slot of a layer; what is given to the compute stream from here on may read it.

        Waits for the disk where the layer has not been read, never for the device.
        """
        slots = len(self._slots)
        if layer != self._taken or layer >= self._layers or layer - slots >= len(self._freed):
            message = (
                f"layer {layer} of {self._layers} is taken after {self._taken}, "
                f"with {len(self._freed)} given back"
            )
            raise IndexError(message)
        with self._changed:
            self._changed.wait_for(lambda: len(self._copied) > layer or self._error is not None)
            if self._error is not None and len(self._copied) <= layer:
                raise self._error
        self._taken += 1
        self._compute.wait(self._copied[layer])
        return self._slots[layer % slots]

    def give_back(self, layer: int) -> None:
        """Say that the compute stream was given all that reads a layer."""
        if layer != len(self._freed) or layer >= self._taken:
            message = f"layer {layer} is given back after {len(self._freed)}, {self._taken} taken"
            raise IndexError(message)
        if self._poison:
            slot = self._slots[layer % len(self._slots)]
            self._compute.run(partial(_fill, slot))
        event = self._compute.record()
        with self._changed:
            self._freed.append(event)
            self._changed.notify_all()

    def _guarded(self) -> None:
        try:
            self._fill_all()
        except BaseException as error:  # noqa: BLE001  (`take` raises it)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _fill_all(self) -> None:
        slots = len(self._slots)
        for layer in range(self._layers):
            host, slot = self._host[layer % slots], self._slots[layer % slots]
            if layer >= slots:
                self._copied[layer - slots].wait_on_host()
            if self._poison:
                _fill(host)
            self._read(layer, host)
            if not self._given_back(layer - slots):
                return
            if layer >= slots:
                self._copy.wait(self._freed[layer - slots])
            if self._poison:
                self._copy.run(partial(_fill, slot))
            self._copy.copy(host, slot)
            event = self._copy.record()
            with self._changed:
                self._copied.append(event)
                self._changed.notify_all()

    def _given_back(self, layer: int) -> bool:
        """Wait until a layer was given back: its event can be waited for only when it is recorded.

        False where the ring is closed before.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._freed) > layer or self._stopped)
            return not self._stopped


def _fill(memory: Tensor) -> None:
    memory.fill_(POISON)


def checkpoint_ring(
    checkpoint: WeightSource,
    device: Device[EventType],
    compute: Stream[EventType],
    *,
    first: int = 0,
    layers: int | None = None,
    slots: int = 3,
    poison: bool = False,
) -> tuple[WeightRing[EventType], list[LayerLayout]]:
    """Return the ring of a checkpoint's layers, in its own dtypes, and the layout of each layer.

    Both begin with layer ``first``, their number 0, and end before layer ``layers``.
    """
    end = checkpoint.config.num_hidden_layers if layers is None else layers
    layouts = [LayerLayout.of(checkpoint, layer) for layer in range(first, end)]

    def read(place: int, buffer: Tensor) -> None:
        views = layouts[place].views(buffer)
        names = [layer_name(first + place, name) for name in views]
        # Every byte is hashed and looked at: .5 GB/s a thread (Sapphire Rapids class), 4 s for 66b.
        with ThreadPoolExecutor(READERS, thread_name_prefix="pyneurons-read") as pool:
            list(pool.map(checkpoint.read_into, names, views.values()))

    size = max(layout.size for layout in layouts)
    ring = WeightRing(device, compute, read, len(layouts), size, slots=slots, poison=poison)
    return ring, layouts
