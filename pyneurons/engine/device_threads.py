"""A device of threads on the CPU that is late at random: what a forgotten wait needs to be seen.

A stream is a thread. Before each piece of work it sleeps for a random time, and it copies piece by
piece with sleeps in between, so that whoever reads too early, or overwrites too early, finds some of the
old and some of the new. It is for tests, not for speed.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from typing import TYPE_CHECKING

import torch

from pyneurons import _env

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

PIECES = 4


class ThreadEvent:
    """A point in the work of a thread."""

    def __init__(self, stream: ThreadStream) -> None:
        self._stream = stream
        self.passed = threading.Event()

    def wait_on_host(self) -> None:
        """Return when the thread has passed this point; raise what its work raised before it."""
        self.passed.wait()
        self._stream.check()


class ThreadStream:
    """A thread that does what it is given, in order and late.

    After work that raised, what follows is left out, but its points are passed, so that nobody waits
    for ever; the error comes out where the host waits, or at the end.
    """

    def __init__(self, name: str, delays: random.Random, longest_s: float) -> None:
        self._delays, self._longest_s = delays, longest_s
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._go, name=f"pyneurons-{name}", daemon=True)
        self._thread.start()

    def _go(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def _late(self) -> None:
        # Now and then at once, as a stream that has nothing else to do.
        time.sleep(self._delays.choice((0.0, self._delays.uniform(0, self._longest_s))))

    def copy(self, source: Tensor, into: Tensor) -> None:
        """Copy in pieces."""

        def work() -> None:
            step = -(-len(source) // PIECES)
            for start in range(0, len(source), step):
                into[start : start + step] = source[start : start + step]
                self._late()

        self.run(work)

    def run(self, work: Callable[[], None]) -> None:
        """Do ``work`` later."""

        def guarded() -> None:
            if self._error is not None:
                return
            self._late()
            try:
                work()
            except BaseException as error:  # noqa: BLE001  (it is raised where the host waits)
                self._error = error

        self._work.put(guarded)

    def record(self) -> ThreadEvent:
        """Mark the point after all that was given so far."""
        event = ThreadEvent(self)
        self._work.put(event.passed.set)
        return event

    def wait(self, event: ThreadEvent) -> None:
        """Do what is given from here on only when another thread has passed a point."""
        self._work.put(event.passed.wait)

    def check(self) -> None:
        """Raise what the work of this thread raised."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """End the thread when it has done what it was given."""
        self._work.put(None)
        self._thread.join()


class ThreadDevice:
    """The CPU as a device whose streams are threads.

    Parameters
    ----------
    seed : int
        Of the delays; what the threads of the system add to them stays random.
    longest_s : float
        The longest delay of a stream of middling slowness; of the slowest it is twice as much.
    """

    reserve = 0

    def __init__(self, seed: int, longest_s: float = 1e-3) -> None:
        self._delays = random.Random(seed)
        self._longest_s = longest_s
        self._streams: list[ThreadStream] = []

    def free_bytes(self) -> int:
        """Return what the system can give."""
        return _env.available_bytes() or 1 << 32

    def give_back(self) -> None:
        """Keep nothing."""

    def allocate(self, size: int) -> Tensor:
        """Return memory, uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8)

    def allocate_host(self, size: int) -> Tensor:
        """Return memory, uint8 [size]."""
        return torch.empty(size, dtype=torch.uint8)

    def stream(self, name: str) -> ThreadStream:
        """Return a new thread, with delays of its own; one may be much slower than another."""
        delays = random.Random(self._delays.random())
        longest_s = self._longest_s * self._delays.choice((0.1, 1, 2))
        self._streams.append(ThreadStream(name, delays, longest_s))
        return self._streams[-1]

    def close(self) -> None:
        """End the threads when they have done what they were given; raise what went wrong."""
        streams, self._streams = self._streams, []
        for stream in streams:
            stream.finish()
        for stream in streams:
            stream.check()
