"""Every error that pyneurons raises on purpose, with the exit code of the command line.

Exit codes: 0 complete, 2 bad input or usage, 3 incomplete but resumable, 4 integrity failure,
5 a resource (memory, disk) that ran out, 128 + n a signal.
"""

from __future__ import annotations


class PyneuronsError(Exception):
    """Base of all deliberate errors; the message says what is wrong, where and what to do."""

    exit_code = 1


class InputError(PyneuronsError):
    """Bad input or usage: a file, a field, an option."""

    exit_code = 2


class ShapeError(InputError, ValueError):
    """An array has the wrong shape, stride or range of values."""


class DTypeError(InputError, TypeError):
    """An array has the wrong dtype."""


class BackendUnavailable(InputError):
    """A backend was asked for by name and cannot run here."""


class IncompleteError(PyneuronsError):
    """A run is not finished; the command that began it continues it."""

    exit_code = 3


class DeviceError(IncompleteError):
    """A device failed under a run; another process may go on with it."""


class IntegrityError(PyneuronsError):
    """Data contradicts itself: counters that do not add up, a file that changed during a run."""

    exit_code = 4


class NonFiniteError(IntegrityError):
    """A NaN or an infinity appeared in the pre-activations; ``place`` is its row and neuron."""

    def __init__(self, message: str, place: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.place = place


class ResourceError(PyneuronsError):
    """The work does not fit the memory or the disk that it was given."""

    exit_code = 5


class DiskError(ResourceError):
    """The disk is full, failed, or refuses to be written."""
