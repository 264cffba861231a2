"""Files that hold arrays which do not fit the memory budget, or are to survive the process."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from pyneurons import failpoints
from pyneurons.errors import DiskError, IntegrityError, ResourceError

if TYPE_CHECKING:
    from pathlib import Path


class ArrayFile:
    """A file of fixed size, read and written at byte offsets with pread and pwrite.

    Not memory-mapped: mapped pages count as resident memory, and a full disk would end the
    process with SIGBUS instead of an error. Safe for several threads.
    """

    def __init__(self, descriptor: int, directory: Path, size: int, what: str) -> None:
        self.size = size
        self._what = what
        self._descriptor = descriptor
        try:
            failpoints.at("allocate")
            if size:
                os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            self.close()
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            message = f"{what}: {size:,} bytes do not fit the disk that holds {directory}; "
            message += "free some, name another place with out= (or TMPDIR), or raise memory="
            raise ResourceError(message) from error
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, into: np.ndarray) -> None:
        """Fill the contiguous array ``into`` from ``offset``."""
        view = memoryview(into.reshape(-1).view(np.uint8).data)
        done = 0
        while done < len(view):
            got = os.preadv(self._descriptor, [view[done:]], offset + done)
            if got == 0:
                message = f"{self._what}: the scratch file ended at byte {offset + done}"
                raise IntegrityError(message)
            done += got

    def write(self, offset: int, values: np.ndarray) -> None:
        """Write the contiguous array ``values`` at ``offset``."""
        view = memoryview(values.reshape(-1).view(np.uint8).data)
        done = 0
        try:
            failpoints.at("array.write")
            while done < len(view):
                done += os.pwritev(self._descriptor, [view[done:]], offset + done)
        except OSError as error:
            message = f"{self._what}: byte {offset + done:,} could not be written "
            message += f"({error.strerror})"
            raise DiskError(message) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ScratchFile(ArrayFile):
    """A file that vanishes with the process.

    The name is removed at once, so that nothing is left behind however the process ends.
    """

    def __init__(self, directory: Path, size: int, what: str) -> None:
        descriptor, name = tempfile.mkstemp(prefix=".pyneurons-", dir=directory)
        os.unlink(name)  # noqa: PTH108  (a name from mkstemp, beside a raw descriptor)
        super().__init__(descriptor, directory, size, what)


class KeptFile(ArrayFile):
    """A file with a name, which stays."""

    def __init__(self, path: Path, size: int, what: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        super().__init__(descriptor, path.parent, size, what)

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        try:
            failpoints.at("fsync")
            os.fsync(self._descriptor)
        except OSError as error:
            message = f"{self._what}: not on the disk ({error.strerror})"
            raise DiskError(message) from error
