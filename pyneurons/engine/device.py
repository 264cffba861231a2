"""What streaming asks of a device: memory, streams that work in order, events between them.

The rules are CUDA's. A stream does what it is given in the order it is given, and after the call has
returned; two streams know nothing of each other; an event marks a point of one stream, and another
stream, or the host, waits for that point. Nothing waits for a whole device: that would stop the very
copies that should go on behind the kernels.

`pyneurons.engine.device_cuda` is a GPU; `pyneurons.engine.device_threads` behaves as badly on a CPU
as the rules allow, so that a forgotten wait is found without a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Event(Protocol):
    """A point in the work of a stream."""

    def wait_on_host(self) -> None:
        """Return when the stream has passed this point."""
        ...


EventType = TypeVar("EventType", bound=Event)


class Stream(Protocol[EventType]):
    """Work that is done in order, after the calls that ask for it have returned."""

    def copy(self, source: Tensor, into: Tensor) -> None:
        """Copy between host and device; both must stay as they are until it is done."""
        ...

    def run(self, work: Callable[[], None]) -> None:
        """Do ``work``, whose operators on tensors belong to this stream."""
        ...

    def record(self) -> EventType:
        """Mark the point after all that was given so far."""
        ...

    def wait(self, event: EventType) -> None:
        """Begin what is given from here on only when another stream has passed a point."""
        ...


class Device(Protocol[EventType]):
    """Memory and streams."""

    reserve: int
    """Bytes that libraries and allocator may take on the device besides what is asked for."""

    def free_bytes(self) -> int:
        """Return how much device memory can be had."""
        ...

    def give_back(self) -> None:
        """Give memory that was freed, and is kept for later, back to whoever asks for it."""
        ...

    def allocate(self, size: int) -> Tensor:
        """Return device memory, uint8 [size], with any content."""
        ...

    def allocate_host(self, size: int) -> Tensor:
        """Return host memory that streams copy from and to, uint8 [size], with any content."""
        ...

    def stream(self, name: str) -> Stream[EventType]:
        """Return a new stream."""
        ...

    def close(self) -> None:
        """Let the streams finish what they were given, and end them."""
        ...
