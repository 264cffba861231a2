"""Files that are old or new, never torn: written beside their place, flushed, renamed.

`commit` is the one way in which a run that is to survive writes: a temporary file in the same folder,
fsync, rename, fsync of the folder. What a failure leaves is the old file, and at most a temporary one
whose name begins with `TEMPORARY`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from pyneurons import failpoints
from pyneurons.errors import DiskError, InputError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

TEMPORARY: Final = ".tmp-"
LOCK: Final = "lock"

_TRANSIENT: Final = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT}
)
_ATTEMPTS: Final = 3
_FIRST_WAIT_S: Final = 0.1  # then four times as long
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MOST_SEALED_BYTES: Final = 1 << 26
_BLOCK_BYTES: Final = 1 << 26


@dataclass(frozen=True)
class Written:
    """A file's size and SHA-256."""

    bytes: int
    sha256: str


def commit(target: Path, fill: Callable[[Path], None], *, sync: bool = True) -> Written:
    """Replace ``target`` by what ``fill`` writes at the path that it is given.

    Parameters
    ----------
    target : Path
    fill : function of a Path
        Called again, for another file, where the first attempt failed for a reason that passes.
    sync : bool
        Sync the folder as well; without it the caller does, once for several files.

    Returns
    -------
    Written
        Read back from the file before it is renamed.

    Raises
    ------
    DiskError
        If the file cannot be written; ``target`` is then what it was.

    Notes
    -----
    A file whose fsync failed is thrown away: the system may have dropped its pages and would say
    yes the next time.
    """
    temporary = target.with_name(TEMPORARY + target.name)
    for attempt in range(_ATTEMPTS):
        try:
            written = _commit(temporary, target, fill)
            if sync:
                sync_folder(target.parent)
        except OSError as error:
            _discard(temporary)
            if error.errno not in _TRANSIENT or attempt + 1 == _ATTEMPTS:
                raise disk_error(error, target) from error
            time.sleep(_FIRST_WAIT_S * 4**attempt)
        except BaseException:
            _discard(temporary)
            raise
        else:
            return written
    raise AssertionError  # pragma: no cover  (the last attempt returns or raises)


def _commit(temporary: Path, target: Path, fill: Callable[[Path], None]) -> Written:
    failpoints.at("open")
    temporary.touch()
    mode = temporary.stat().st_mode
    fill(temporary)
    temporary.chmod(mode)  # safetensors makes a file of its own, which nobody else may read
    failpoints.at("write")
    with temporary.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        failpoints.at("fsync")
        os.fsync(file.fileno())
    failpoints.at("rename")
    temporary.replace(target)
    return Written(size, sha256)


def _discard(temporary: Path) -> None:
    # Where the disk lets nothing be removed either, the next start sweeps it.
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def commit_bytes(target: Path, content: bytes) -> Written:
    """Replace ``target`` by ``content``."""

    def fill(path: Path) -> None:
        path.write_bytes(content)

    return commit(target, fill)


def sync_folder(folder: Path) -> None:
    """Make names in a folder last: a rename is not on disk before that."""
    failpoints.at("folder")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there, so that it lasts."""
    try:
        failpoints.at("mkdir")
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
    except OSError as error:
        if error.errno in _FULL or error.errno == errno.EIO:
            raise disk_error(error, folder) from error
        message = f"out: {folder} cannot be made ({error.strerror}); name another place"
        raise InputError(message) from error


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    try:
        failpoints.at("unlink")
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def rename(source: Path, target: Path) -> None:
    """Rename within one folder, so that it lasts."""
    try:
        failpoints.at("rename")
        source.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise disk_error(error, target) from error


def disk_error(error: OSError, path: Path) -> DiskError:
    """Return what to raise for a failed write: what, where, and what to do."""
    remedy = "free some" if error.errno in _FULL else "see to the disk"
    message = f"{path}: {error.strerror or error}; {remedy}, then the same command continues"
    return DiskError(message)


# -- checksums ---------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 1.5 GB/s (Sapphire Rapids class)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_blocks(path: Path, threads: int = 2) -> str:
    """Return the SHA-256 of the SHA-256s of a file's blocks of 64 MiB, several at a time."""
    size = path.stat().st_size

    def digest(offset: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            left, found = min(_BLOCK_BYTES, size - offset), hashlib.sha256()
            while left and (part := file.read(min(left, 1 << 20))):
                found.update(part)
                left -= len(part)
            return found.digest()

    with ThreadPoolExecutor(threads, thread_name_prefix="pyneurons-hash") as pool:
        parts = pool.map(digest, range(0, size, _BLOCK_BYTES))
        return hashlib.sha256(b"".join(parts)).hexdigest()


def seal(content: Mapping[str, Any]) -> bytes:
    """Return JSON text that holds ``content`` and its SHA-256: a changed byte anywhere is found."""
    plain = json.dumps(content, sort_keys=True, allow_nan=False)
    sha256 = hashlib.sha256(plain.encode()).hexdigest()
    whole = {"sha256": sha256, "content": json.loads(plain)}
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()


def unseal(path: Path) -> dict[str, Any]:
    """Return what `seal` sealed.

    Raises
    ------
    IntegrityError
        If the file is not there, or not to the byte what `seal` makes.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_SEALED_BYTES + 1)
        whole = json.loads(raw)
        content: Any = whole["content"]
        good = isinstance(content, dict) and seal(content) == raw
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise IntegrityError(message) from error
    except (ValueError, TypeError, KeyError, RecursionError):
        good = False
    if not good:
        message = f"{path}: damaged, its checksum does not match"
        raise IntegrityError(message)
    found: dict[str, Any] = content
    return found


# -- one process at a time ---------------------------------------------------------------------


class FolderLock:
    """Keeps other processes out of a folder, by flock on a file in it: it goes with the process.

    Raises
    ------
    InputError
        If another process holds it; the message names that one.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._descriptor = -1
        while self._descriptor < 0:
            make_folder(folder)
            self._descriptor = self._take()
        try:
            sync_folder(folder)  # the lock is by what a folder is known as ours: before all else
        except OSError as error:
            self.release()
            raise disk_error(error, self.path) from error
        except BaseException:
            self.release()
            raise
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since_unix_s": time.time()}
        with contextlib.suppress(OSError):  # on a full disk the lock holds without a name on it
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(owner).encode(), 0)

    def _take(self) -> int:
        """Return the descriptor, or -1 where the folder was moved away meanwhile."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            return -1
        except OSError as error:
            message = f"{self.path}: cannot be written ({error.strerror}); name another place"
            raise InputError(message) from error
        try:
            _lock(descriptor)
            same = os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            same = False
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                message = f"{self.path}: this file system has no locks ({error.strerror}); "
                message += "name another place"
                raise InputError(message) from error
            message = f"out: {owner_of(self.path)} is writing this run ({self.path.parent}); "
            message += "wait for it, or name another directory"
            raise InputError(message) from error
        if not same:
            os.close(descriptor)
            return -1
        return descriptor

    def release(self) -> None:
        """Let others in."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _lock(descriptor: int) -> None:
    """Take a lock; more than once, for `is_locked` takes it for a moment as well."""
    for _ in range(3):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def owner_of(lock: Path) -> str:
    """Name the process that a lock file tells of."""
    try:
        owner = json.loads(lock.read_bytes()[:4096])
        return f"process {int(owner['pid'])} on {str(owner['host'])[:100]}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder at this moment."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
