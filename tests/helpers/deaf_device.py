"""A device one of whose streams does not wait for events: what a forgotten wait looks like."""

from __future__ import annotations

from typing import Any

from pyneurons.engine.device_threads import ThreadDevice, ThreadStream


def ignore(*_: Any) -> None:
    """Do not wait."""


class Deaf(ThreadDevice):
    """A device of threads whose stream of one name ignores every `wait`."""

    def __init__(self, seed: int, deaf: str, longest_s: float = 1e-3) -> None:
        super().__init__(seed, longest_s)
        self._deaf = deaf

    def stream(self, name: str) -> ThreadStream:
        """Return a new thread."""
        made = super().stream(name)
        if name == self._deaf:
            made.wait = ignore  # type: ignore[method-assign]
        return made
