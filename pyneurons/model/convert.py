"""``pyneurons convert``: pickled weights as safetensors, read as data in a process with limits."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from pyneurons.errors import InputError, IntegrityError, PyneuronsError, ResourceError
from pyneurons.model.checkpoint import (
    INDEX_FILE,
    SINGLE_FILE,
    Checkpoint,
    bin_files,
    read_config,
    read_weight_map,
)
from pyneurons.model.regular_file import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHARD_BYTES: Final = 5_000_000_000
"""Most bytes of a file of weights, as transformers cuts them."""

SIDE_FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""Copied as they are, where they are there."""

_MOST_SIDE_BYTES: Final = 64 << 20
_ERRORS: Final[dict[int, type[PyneuronsError]]] = {
    error.exit_code: error for error in (InputError, IntegrityError, ResourceError)
}


@dataclass(frozen=True)
class Converted:
    """What was written."""

    directory: Path
    tensors: int
    bytes: int
    files: int
    tied: tuple[str, ...]
    """Names left out, because they are the very memory of the embeddings."""


def convert(
    source: Path,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write an OPT checkpoint with pickled weights as one with safetensors.

    The weights are copied bit by bit. Everything is written beside ``out``, opened as a scan opens
    it, and renamed when it is complete: what stands at ``out`` is whole or not there.

    Parameters
    ----------
    source : Path
        Holds config.json and pytorch_model.bin, or pytorch_model.bin.index.json and its shards (the
        single file is taken where both are there, as transformers does).
    out : Path
        A new directory, or an empty one.
    shard_bytes : int
        Most bytes of one file of weights; a larger tensor gets a file for itself.
    progress : callable, optional
        Is told bytes written and bytes in all.

    Raises
    ------
    InputError
        If the source is no OPT checkpoint with pickled weights, or anything in them is not what
        checkpoints of tensors need; no other way of reading is tried.
    IntegrityError
        If a checksum is wrong, or a file changes meanwhile.
    ResourceError
        If memory, disk or the time that the limits allow run out.
    """
    if shard_bytes < 1:
        message = f"shard_bytes: {shard_bytes}, expected at least 1"
        raise InputError(message)
    config = read_config(source / "config.json")
    if (source / SINGLE_FILE).is_file() or (source / INDEX_FILE).is_file():
        message = f"{source}: has safetensors already; give it to pyneurons scan as it is"
        raise InputError(message)
    files, index = bin_files(source)
    weight_map = None if index is None else read_weight_map(index, ".bin")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        message = f"{out}: exists already; name a new directory"
        raise InputError(message)
    sizes = sum(_size(file) for file in files)
    with _staging(out.absolute()) as (staging, lock):
        if shutil.disk_usage(staging).free < sizes:
            message = f"{out}: {sizes:,} bytes are to be written, and the disk has less free"
            raise ResourceError(message)
        job = {
            "files": [str(file.absolute()) for file in files],
            "weight_map": weight_map,
            "out": str(staging),
            "shard_bytes": shard_bytes,
            "tied": config.tie_word_embeddings,
            "input_bytes": sizes,
        }
        done = _run(job, lock, progress)
        if done["files"] > 1:
            described = {
                "metadata": {"total_size": done["bytes"]},
                "weight_map": done["weight_map"],
            }
            _write(staging / INDEX_FILE, json.dumps(described, indent=1).encode())
        for name in SIDE_FILES:
            if (source / name).is_file():
                _write(staging / name, _read(source / name))
        Checkpoint(staging)
        _sync(staging)
        try:
            staging.rename(out)
        except OSError as error:
            message = f"{out}: cannot be put in place ({error.strerror})"
            raise InputError(message) from error
        _sync(out.absolute().parent)
    return Converted(out, done["tensors"], done["bytes"], done["files"], tuple(done["tied"]))


@contextmanager
def _staging(out: Path) -> Iterator[tuple[Path, int]]:
    """Make the directory beside ``out`` that is renamed in the end, and hold a lock on it.

    What an interrupted process left there is removed; the reading process holds the lock as well.
    """
    staging = out.with_name(f".{out.name}.partial")
    try:
        staging.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{staging}: cannot be made ({error.strerror})"
        raise InputError(message) from error
    lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{out}: another process converts into it"
            raise InputError(message) from error
        _empty(staging)
        try:
            yield staging, lock
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _run(
    job: dict[str, Any], lock: int, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    """Give the job to a process of its own; return what it says at the end."""
    command = [sys.executable, "-P", "-m", "pyneurons.model.convert_worker"]
    total = 0
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            pass_fds=(lock,),
            text=True,
            encoding="utf-8",
        ) as reader,
    ):
        try:
            said: dict[str, Any] = {}
            for line in _lines(reader, job):
                said = json.loads(line)
                if "error" in said:
                    raise _ERRORS[said["code"]](said["error"])
                total = said.get("total", total)
                if progress is not None and "written" in said:
                    progress(said["written"], total)
            code = reader.wait()
        finally:
            reader.kill()
        if code or "done" not in said:
            raise _ended(code, stderr, job)
    done: dict[str, Any] = said["done"]
    return done


def _lines(reader: subprocess.Popen[str], job: dict[str, Any]) -> Iterator[str]:
    if reader.stdin is None or reader.stdout is None:  # pragma: no cover - both are pipes
        return
    try:
        reader.stdin.write(json.dumps(job))
        reader.stdin.close()
    except BrokenPipeError:  # it ended before it read; its exit code says why
        return
    yield from reader.stdout


def _ended(code: int, stderr: IO[bytes], job: dict[str, Any]) -> ResourceError:
    """Return the error of a reading process that ended without a word."""
    why = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
    stderr.seek(0)
    lines = stderr.read().decode("utf-8", "replace").strip().splitlines()
    last = f": {lines[-1][:200]}" if lines else ""
    return ResourceError(
        f"{job['files'][0]}: the process that reads it ended ({why}{last}); "
        "its memory and time are limited by the size of the file"
    )


def _size(file: Path) -> int:
    with open_regular(file) as descriptor:
        return os.fstat(descriptor).st_size


def _read(path: Path) -> bytes:
    with open_regular(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        data = file.read(_MOST_SIDE_BYTES + 1)
    if len(data) > _MOST_SIDE_BYTES:
        message = f"{path}: more than {_MOST_SIDE_BYTES:,} bytes"
        raise InputError(message)
    return data


def _write(path: Path, data: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror})"
        raise ResourceError(message) from error


def _sync(directory: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
