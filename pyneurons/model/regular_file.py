"""A regular file opened for reading, by name or not at all: no pipe is waited for, no device read."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyneurons.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Version:
    """What tells one state of a file from another without reading it."""

    size: int
    modified_ns: int
    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Version:
        """Return the version that a stat call saw."""
        return cls(status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Open a regular file (or a link to one) for reading; gives its descriptor.

    Raises
    ------
    InputError
        If there is no such file, it is a folder, pipe, socket or device, or may not be read.
    """
    try:
        # Not to wait for the writer of a pipe; on a regular file the flag does nothing.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        message = f"{path}: no such file"
        raise InputError(message) from error
    except (OSError, ValueError) as error:
        message = f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})"
        raise InputError(message) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            message = f"{path}: no such file (a folder, pipe or device has that name)"
            raise InputError(message)
        yield descriptor
    finally:
        os.close(descriptor)


def pread_into(descriptor: int, offset: int, into: memoryview, path: Path) -> None:
    """Fill ``into`` with the bytes from ``offset`` on.

    Raises
    ------
    IntegrityError
        If the file ends before ``into`` is full, or reading fails.
    """
    done = 0
    while done < len(into):
        try:
            got = os.preadv(descriptor, [into[done:]], offset + done)
        except OSError as error:
            message = f"{path}: cannot be read at byte {offset + done:,} ({error.strerror})"
            raise IntegrityError(message) from error
        if got == 0:
            message = f"{path}: ended at byte {offset + done:,} while it was read"
            raise IntegrityError(message)
        done += got


def check_version(path: Path, descriptor: int, version: Version) -> None:
    """Raise IntegrityError unless the open file is still the ``version`` that was looked at."""
    if Version.of(os.fstat(descriptor)) != version:
        message = f"{path}: changed since it was opened; run again on a file that stays"
        raise IntegrityError(message)
