"""A file that holds arrays which do not fit the memory budget; it vanishes with the process."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from pyneurons.errors import IntegrityError, ResourceError

if TYPE_CHECKING:
    from pathlib import Path


class ScratchFile:
    """A file of fixed size, read and written at byte offsets with pread and pwrite.

    Not memory-mapped: mapped pages count as resident memory, and a full disk would end the
    process with SIGBUS instead of an error. The name is removed at once, so that nothing is left
    behind however the process ends. Safe for several threads.
    """

    def __init__(self, directory: Path, size: int, what: str) -> None:
        self.size = size
        self._what = what
        self._descriptor, name = tempfile.mkstemp(prefix=".pyneurons-", dir=directory)
        os.unlink(name)  # noqa: PTH108  (a name from mkstemp, beside a raw descriptor)
        try:
            if size:
                os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            self.close()
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            message = f"{what}: {size:,} bytes do not fit the disk that holds {directory}; "
            message += "free some, name another place with out= (or TMPDIR), or raise memory="
            raise ResourceError(message) from error

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
        while done < len(view):
            done += os.pwritev(self._descriptor, [view[done:]], offset + done)

    def close(self) -> None:
        """Give the disk space back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
