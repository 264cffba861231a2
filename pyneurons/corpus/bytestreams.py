"""The bytes of a corpus file: plain, gzip or zstandard, counted and hashed as they pass.

Everything here reads forward in bounded pieces, so memory does not grow with the file, and a file
that ends before its format says so is an error, never a shorter corpus.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import importlib
import io
import os
import zlib
from typing import TYPE_CHECKING, Final, Literal

from pyneurons.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Buffer

    from pyneurons.corpus.tally import SourceRecord, Tally

Errors = Literal["strict", "replace"]

CHUNK_BYTES: Final = 1 << 20
"""Bytes handed on at a time."""

LINE_BYTES: Final = 64 << 20
"""The longest line of a .jsonl file."""

ZSTD_INPUT_BYTES: Final = 2048
"""Compressed bytes given to zstandard at a time.

Four bytes can stand for a block of 128 KiB, so this also bounds what one call may return: 64 MiB.
"""

EXPANSION_FREE_BYTES: Final = 64 << 20
EXPANSION: Final = 1000
EXPANDED_BYTES: Final = 1 << 38
"""A compressed file may expand to 64 MiB, beyond that to 1,000 times its size, never above 256 GiB."""

ZSTD_WINDOW_BYTES: Final = 128 << 20
"""Memory that a zstandard frame may ask for to look back: what the format's tools allow by default."""

REPLACEMENT: Final = "\ufffd"


class MeteredFile(io.RawIOBase):
    """A regular file read once from its start, counting and hashing what passes.

    Parameters
    ----------
    path : Path
        The file.
    source : SourceRecord
        Receives the sha256 when `finish` is called.
    tally : Tally
        ``done_bytes`` grows as bytes are read.
    """

    def __init__(self, path: Path, source: SourceRecord, tally: Tally) -> None:
        super().__init__()
        self.path = path
        self._source = source
        self._tally = tally
        self._digest = hashlib.sha256()
        self._seen = 0
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            message = f"{path}: cannot be opened: {error.strerror}"
            raise InputError(message) from error
        self.size = os.fstat(self._file.fileno()).st_size

    def readable(self) -> bool:
        """Say that this file can be read."""
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        """Read into ``buffer``; return how many bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        try:
            count = self._file.readinto(view) or 0
        except OSError as error:
            message = f"{self.path}: cannot be read at byte {self._seen}: {error.strerror}"
            raise InputError(message) from error
        self._digest.update(view[:count])
        self._seen += count
        self._tally.done_bytes += count
        return count

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()

    def finish(self) -> None:
        """Record the digest of a file that was read to its end.

        Raises
        ------
        IntegrityError
            If the file has another length than when it was opened.
        """
        if self._seen != self.size:
            message = (
                f"{self.path}: {self.size} bytes when it was opened, {self._seen} bytes read; "
                "the file changed while it was read"
            )
            raise IntegrityError(message)
        self._source["sha256"] = self._digest.hexdigest()


def read_bytes(path: Path, source: SourceRecord, tally: Tally) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed by its last suffix, in pieces.

    Raises
    ------
    InputError
        If the file cannot be read, is truncated or damaged, or expands beyond the bound.
    IntegrityError
        If the file changed while it was read.
    """
    with MeteredFile(path, source, tally) as file:
        match path.suffix.lower():
            case ".gz":
                chunks = _gzip_chunks(file)
            case ".zst":
                chunks = _zstd_chunks(file)
            case _:
                yield from iter(lambda: file.read(CHUNK_BYTES) or b"", b"")
                file.finish()
                return
        expanded = 0
        for chunk in chunks:
            expanded += len(chunk)
            check_expansion(path, file.size, expanded)
            yield chunk
        file.finish()


def check_expansion(path: Path, size: int, expanded: int) -> None:
    """Raise InputError if ``expanded`` bytes are more than a file of ``size`` may become."""
    if expanded > EXPANDED_BYTES:
        message = f"{path}: expands to more than {EXPANDED_BYTES} bytes; cut it into several files"
        raise InputError(message)
    if expanded > EXPANSION_FREE_BYTES and expanded > EXPANSION * size:
        message = (
            f"{path}: {size} compressed bytes expand to more than {EXPANSION} times "
            "as many; decompress the file first if that is meant"
        )
        raise InputError(message)


def _gzip_chunks(file: MeteredFile) -> Iterator[bytes]:
    try:
        # GzipFile checks each member's length and CRC at its end.
        with gzip.GzipFile(fileobj=file, mode="rb") as stream:
            yield from iter(lambda: stream.read(CHUNK_BYTES), b"")
    except EOFError as error:
        message = f"{file.path}: truncated gzip file; copy or compress it again"
        raise InputError(message) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        message = f"{file.path}: not a readable gzip file: {error}"
        raise InputError(message) from error


def _zstd_chunks(file: MeteredFile) -> Iterator[bytes]:
    try:
        zstandard = importlib.import_module("zstandard")
    except ModuleNotFoundError as error:
        message = f"{file.path}: .zst needs the package zstandard: pip install zstandard"
        raise InputError(message) from error
    # A decompressobj per frame, not a stream_reader: that one takes a truncated frame for the end.
    new_frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj
    frame = None
    try:
        while raw := file.read(CHUNK_BYTES):
            for start in range(0, len(raw), ZSTD_INPUT_BYTES):
                rest = raw[start : start + ZSTD_INPUT_BYTES]
                while rest:
                    frame = frame or new_frame()
                    if chunk := frame.decompress(rest):
                        yield chunk
                    rest = frame.unused_data if frame.eof else b""
                    frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        message = f"{file.path}: not a readable zstandard file: {error}"
        raise InputError(message) from error
    if frame is not None:
        message = f"{file.path}: truncated zstandard file; copy or compress it again"
        raise InputError(message)


def read_text(path: Path, source: SourceRecord, tally: Tally, errors: Errors) -> Iterator[str]:
    """Yield the text of a UTF-8 file in pieces, line ends as they are, a leading BOM left out.

    Raises
    ------
    InputError
        For bytes that are not UTF-8 and ``errors="strict"``, with line and byte offset.
    """
    held = b""
    offset = 0
    line = 1
    chunks = read_bytes(path, source, tally)
    final = False
    while not final:
        chunk = next(chunks, b"")
        final = not chunk
        data = held + chunk
        try:
            text, used = codecs.utf_8_decode(data, errors, final)
        except UnicodeDecodeError as error:
            line += data.count(b"\n", 0, error.start)
            raise invalid_utf8(path, line, offset, error) from error
        if errors == "replace":
            tally.replaced_characters += _replaced(data[:used], text)
        if offset == 0 and text.startswith("\ufeff"):
            text = text[1:]
            tally.byte_order_marks += 1
        offset += used
        line += data.count(b"\n", 0, used)
        held = data[used:]
        if text:
            yield text


def read_lines(
    path: Path, source: SourceRecord, tally: Tally, errors: Errors
) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of every line of a UTF-8 file, without its line feed.

    Raises
    ------
    InputError
        For a line of more than `LINE_BYTES`, or bytes that are not UTF-8 and ``errors="strict"``.
    """
    offset = 0
    for number, raw in enumerate(_raw_lines(path, source, tally), start=1):
        line = raw
        if number == 1 and raw.startswith(codecs.BOM_UTF8):
            line = raw[len(codecs.BOM_UTF8) :]
            tally.byte_order_marks += 1
        try:
            text = decode(line, errors, tally)
        except UnicodeDecodeError as error:
            raise invalid_utf8(path, number, offset + len(raw) - len(line), error) from error
        offset += len(raw) + 1
        yield number, text


def _raw_lines(path: Path, source: SourceRecord, tally: Tally) -> Iterator[bytes]:
    held: list[bytes] = []
    held_bytes = 0
    number = 1
    for chunk in _bounded(read_bytes(path, source, tally)):
        first, *others = chunk.split(b"\n")
        held.append(first)
        held_bytes += len(first)
        for line in others:
            yield b"".join(held)
            number += 1
            held = [line]
            held_bytes = len(line)
        if held_bytes > LINE_BYTES:
            message = (
                f"{path}:{number}: a line of more than {LINE_BYTES} bytes; "
                "a .jsonl file has one JSON object on each line"
            )
            raise InputError(message)
    if held_bytes:
        yield b"".join(held)


def _bounded(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut what zstandard may hand on at once: 64 MiB of line feeds are a list of 500 MB."""
    for chunk in chunks:
        for start in range(0, len(chunk), CHUNK_BYTES):
            yield chunk[start : start + CHUNK_BYTES]


def decode(data: bytes, errors: Errors, tally: Tally) -> str:
    """Decode UTF-8, counting the characters that ``errors="replace"`` puts in."""
    text = data.decode("utf-8", errors)
    if errors == "replace":
        tally.replaced_characters += _replaced(data, text)
    return text


def _replaced(data: bytes, text: str) -> int:
    """Count the replacement characters of ``text`` that are not in ``data``."""
    if text.isascii():
        return 0
    return text.count(REPLACEMENT) - data.count(REPLACEMENT.encode())


def invalid_utf8(path: Path, line: int, offset: int, error: UnicodeDecodeError) -> InputError:
    """Return the error that names the place of bytes that are not UTF-8.

    ``offset`` is that of the bytes in which the decoder found the error.
    """
    found = error.object[error.start]
    return InputError(
        f"{path}:{line}: byte {offset + error.start} is 0x{found:02x}, not valid UTF-8 ({error.reason}); "
        "convert the file to UTF-8 or pass errors='replace'"
    )
