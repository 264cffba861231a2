"""SIGINT and SIGTERM: the first stops cleanly, the second at once.

The first raises `KeyboardInterrupt` in the main thread, which leaves through every context: nothing
half-written is kept. A thread reads the signals as they come, so that a second one ends the process
also while the main thread is inside a long call that sees none.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """The signal that came, if one did."""

    def __init__(self) -> None:
        self.signal = 0

    @property
    def exit_code(self) -> int:
        """128 + n."""
        return 128 + self.signal

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signal = self.signal or number
        raise KeyboardInterrupt

    def _watch(self, reader: socket.socket) -> None:
        came = 0
        while data := reader.recv(64):
            for number in data:
                came += number in _SIGNALS
                if came > 1:
                    os._exit(128 + number)


@contextmanager
def stopping() -> Iterator[Stopping]:
    """Catch both signals within a block of the main thread; one that is ignored stays so."""
    found = Stopping()
    caught = [s for s in _SIGNALS if signal.getsignal(s) != signal.SIG_IGN]
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    watcher = threading.Thread(
        target=found._watch, args=[reader], name="pyneurons-signals", daemon=True
    )
    before = {s: signal.signal(s, found._stop) for s in caught}
    fd = signal.set_wakeup_fd(writer.fileno())
    watcher.start()
    try:
        yield found
    finally:
        signal.set_wakeup_fd(fd)
        for s, handler in before.items():
            signal.signal(s, handler)
        writer.close()
        watcher.join()
        reader.close()
