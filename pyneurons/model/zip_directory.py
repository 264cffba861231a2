"""Where the members of a zip archive lie, for archives that store them as they are, as torch does.

Nothing is decompressed and no name is ever used as a path. A member is its bytes in the file.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from pyneurons.errors import InputError, IntegrityError
from pyneurons.model.regular_file import pread_into

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_MEMBERS: Final = 100_000
MOST_DIRECTORY_BYTES: Final = 64 << 20
MOST_NAME_BYTES: Final = 1024
CHUNK_BYTES: Final = 4 << 20

_END: Final = struct.Struct("<4s4H2LH")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
# Of the flags, sizes that stand behind the data (torch sets it) and names in UTF-8.
_FLAGS: Final = 1 << 3 | 1 << 11
_NAME: Final = re.compile(r"[\w.-][\w. -]*(/[\w.-][\w. -]*)*", flags=re.ASCII)


@dataclass(frozen=True)
class Member:
    """The bytes of one member: [offset, offset + bytes) of the file."""

    name: str
    offset: int
    bytes: int
    crc: int


def is_zip(descriptor: int) -> bool:
    """Whether a file begins as a zip archive does."""
    return os.pread(descriptor, 4, 0) == b"PK\x03\x04"


def read_directory(descriptor: int, size: int, path: Path) -> dict[str, Member]:
    """Read and check the directory of a zip archive of ``size`` bytes.

    Raises
    ------
    InputError
        If the directory is not whole or does not end the file, or a member is compressed or
        encrypted, overlaps another, lies outside the file, is named twice or like a path out of the
        archive, or the directory and the member's own header differ.
    """
    start, length, count = _find_directory(descriptor, size, path)
    raw = bytearray(length)
    pread_into(descriptor, start, memoryview(raw), path)
    members: dict[str, Member] = {}
    extents: list[tuple[int, int, str]] = []
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > length or raw[at : at + 4] != b"PK\x01\x02":
            message = f"{path}: the zip directory ends after {len(members):,} of {count:,} members"
            raise InputError(message)
        fields = _ENTRY.unpack_from(raw, at)
        flags, method, crc, packed, unpacked = fields[3], fields[4], fields[7], fields[8], fields[9]
        name_bytes, extra_bytes, comment_bytes, disk, header = (
            *fields[10:13],
            fields[13],
            fields[16],
        )
        at += _ENTRY.size
        if at + name_bytes + extra_bytes + comment_bytes > length:
            message = f"{path}: the zip directory ends inside a name"
            raise InputError(message)
        name = _name(bytes(raw[at : at + name_bytes]), path)
        where = f"{path}: member {name!r}"
        extra = bytes(raw[at + name_bytes : at + name_bytes + extra_bytes])
        at += name_bytes + extra_bytes + comment_bytes
        if method or flags & ~_FLAGS:
            message = (
                f"{where} is compressed or encrypted (method {method}, flags {flags:#x}); torch "
                "stores members as they are"
            )
            raise InputError(message)
        unpacked, packed, header = _wide(unpacked, packed, header, extra, where)
        if packed != unpacked or disk not in {0, 0xFFFF}:
            message = f"{where}: {packed:,} bytes stored, {unpacked:,} expected, part {disk}"
            raise InputError(message)
        if name in members:
            message = f"{where} is there twice"
            raise InputError(message)
        offset = _data_offset(descriptor, header, name, start, path)
        if offset + packed > start:
            message = f"{where}: {packed:,} bytes from {offset:,} on run into the zip directory"
            raise InputError(message)
        members[name] = Member(name, offset, packed, crc)
        extents.append((header, offset + packed, name))
    if at != length:
        message = f"{path}: {length - at:,} bytes behind the last entry of the zip directory"
        raise InputError(message)
    extents.sort()
    for (_, end, first), (begin, _, second) in pairwise(extents):
        if begin < end:
            message = f"{path}: members {first!r} and {second!r} overlap"
            raise InputError(message)
    return members


def read_member(descriptor: int, member: Member, path: Path, *, most_bytes: int) -> bytes:
    """Return the bytes of a small member.

    Raises
    ------
    InputError
        If it has more than ``most_bytes``.
    IntegrityError
        If its checksum is another.
    """
    if member.bytes > most_bytes:
        message = (
            f"{path}: member {member.name!r} has {member.bytes:,} bytes, at most {most_bytes:,}"
        )
        raise InputError(message)
    data = bytearray(member.bytes)
    pread_into(descriptor, member.offset, memoryview(data), path)
    check_crc(zlib.crc32(data), member, path)
    return bytes(data)


def chunks(descriptor: int, offset: int, size: int, path: Path) -> Iterator[bytes]:
    """Yield ``size`` bytes from ``offset`` on, in pieces."""
    for begin in range(0, size, CHUNK_BYTES):
        piece = bytearray(min(CHUNK_BYTES, size - begin))
        pread_into(descriptor, offset + begin, memoryview(piece), path)
        yield bytes(piece)


def check_crc(found: int, member: Member, path: Path) -> None:
    """Raise IntegrityError unless ``found`` is the checksum that the directory has."""
    if found != member.crc:
        message = (
            f"{path}: member {member.name!r} has checksum {found:08x}, the zip directory says "
            f"{member.crc:08x}; the file is damaged, fetch it again"
        )
        raise IntegrityError(message)


def _find_directory(descriptor: int, size: int, path: Path) -> tuple[int, int, int]:
    """Return where the directory begins, its bytes, and the number of members."""
    tail_at = max(0, size - _END.size - 0xFFFF)
    tail = bytearray(size - tail_at)
    pread_into(descriptor, tail_at, memoryview(tail), path)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        message = f"{path}: no zip directory at its end; is the download complete?"
        raise InputError(message)
    _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        message = f"{path}: bytes behind the zip directory; is the download complete?"
        raise InputError(message)
    end = tail_at + at
    locator = _LOCATOR_64.size
    if at >= locator and tail[at - locator : at - locator + 4] == b"PK\x06\x07":
        _, part, record_at, parts = _LOCATOR_64.unpack_from(tail, at - locator)
        record = bytearray(_END_64.size)
        if record_at + len(record) != end - locator or part or parts > 1:
            message = f"{path}: the 64-bit end of the zip directory is not where it should be"
            raise InputError(message)
        pread_into(descriptor, record_at, memoryview(record), path)
        mark, record_bytes, _, _, disk, first_disk, here, count, length, start = _END_64.unpack(
            record
        )
        if mark != b"PK\x06\x06" or record_bytes != _END_64.size - 12:
            message = f"{path}: the 64-bit end of the zip directory is malformed"
            raise InputError(message)
        end = record_at
    if disk or first_disk or here != count:
        message = f"{path}: one part of a zip archive of several"
        raise InputError(message)
    if count > MOST_MEMBERS or length > MOST_DIRECTORY_BYTES:
        message = (
            f"{path}: {count:,} members and a zip directory of {length:,} bytes; at most "
            f"{MOST_MEMBERS:,} and {MOST_DIRECTORY_BYTES:,} are read"
        )
        raise InputError(message)
    if start + length != end:
        message = f"{path}: the zip directory, {length:,} bytes from {start:,} on, is out of place"
        raise InputError(message)
    return start, length, count


def _name(raw: bytes, path: Path) -> str:
    """Return a member's name, which must be one that torch writes: parts of word characters."""
    name = raw.decode("ascii", "replace")
    parts = name.split("/")
    if len(raw) > MOST_NAME_BYTES or not _NAME.fullmatch(name) or {".", ".."} & set(parts):
        message = f"{path}: a member of the zip archive is named {raw[:200]!r}"
        raise InputError(message)
    return name


def _wide(
    unpacked: int, packed: int, header: int, extra: bytes, where: str
) -> tuple[int, int, int]:
    """Return sizes and offset, from the 64-bit extra field where the entry has no room for them."""
    wanted = [unpacked, packed, header]
    if 0xFFFFFFFF not in wanted:
        return unpacked, packed, header
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind != 1:
            continue
        for place, value in enumerate(wanted):
            if value == 0xFFFFFFFF and len(field) >= 8:
                wanted[place] = int.from_bytes(field[:8], "little")
                field = field[8:]
        return wanted[0], wanted[1], wanted[2]
    message = f"{where}: no 64-bit sizes, though the entry asks for them"
    raise InputError(message)


def _data_offset(descriptor: int, header: int, name: str, end: int, path: Path) -> int:
    """Return where a member's bytes begin, behind its own header, which must agree."""
    where = f"{path}: member {name!r}"
    raw = bytearray(_LOCAL.size + len(name))
    if header + len(raw) > end:
        message = f"{where}: its header at {header:,} lies outside"
        raise InputError(message)
    pread_into(descriptor, header, memoryview(raw), path)
    fields = _LOCAL.unpack_from(raw)
    name_bytes: int = fields[9]
    extra_bytes: int = fields[10]
    if (
        fields[0] != b"PK\x03\x04"
        or fields[3]
        or fields[2] & ~_FLAGS
        or name_bytes != len(name)
        or raw[_LOCAL.size :] != name.encode()
    ):
        message = f"{where}: its own header at {header:,} says something else than the directory"
        raise InputError(message)
    return header + _LOCAL.size + name_bytes + extra_bytes
