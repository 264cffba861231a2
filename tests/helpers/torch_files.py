"""Files as torch.save writes them, and ones that it would never write, byte by byte."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Member:
    """One member of a zip archive, with whatever the directory and its own header say of it."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None  # what the directory says
    local_name: str | None = None
    extra: bytes = b""
    at: int | None = None  # where the directory says its header is
    stored: bytes | None = field(default=None)  # what is written in place of the data


def zip_archive(
    members: Sequence[Member],
    *,
    count: int | None = None,
    comment: bytes = b"",
    behind: bytes = b"",
    gap: bytes = b"",
) -> bytes:
    """A zip archive of these members, right or wrong."""
    body, directory = b"", b""
    for member in members:
        data = member.data if member.stored is None else member.stored
        size = len(data) if member.size is None else member.size
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        name = member.name.encode()
        local = (member.local_name or member.name).encode()
        sizes = (0xFFFFFFFF, 0xFFFFFFFF) if member.extra else (size, size)
        at = len(body) if member.at is None else member.at
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, member.flags, member.method, 0, 0, crc, *sizes,
            len(name), len(member.extra), 0, 0, 0, 0, at,
        )  # fmt: skip
        directory += name + member.extra
        body += struct.pack(
            "<4s5H3L2H", b"PK\x03\x04", 20, member.flags, member.method, 0, 0, crc, size & 0xFFFFFFFF,
            size & 0xFFFFFFFF, len(local), 0,
        )  # fmt: skip
        body += local + data
    number = len(members) if count is None else count
    body += gap
    end = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, number, number, len(directory), len(body), len(comment)
    )
    return body + directory + end + comment + behind


def torch_zip(pickled: bytes, storages: dict[str, bytes], *more: Member) -> bytes:
    """A file in the format of torch 1.6, with this pickle and these storages."""
    members = [
        Member("archive/data.pkl", pickled),
        *(Member(f"archive/data/{key}", data) for key, data in storages.items()),
        Member("archive/version", b"3\n"),
        *more,
    ]
    return zip_archive(members)


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    """The opcode that pushes an integer."""
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    """The opcode that asks for a name of a module."""
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def tuple_of(*items: bytes) -> bytes:
    """Opcodes that push a tuple."""
    return b"(" + b"".join(items) + b"t"


def storage(key: str = "0", kind: str = "FloatStorage", elements: int = 4) -> bytes:
    """Opcodes that push a storage by its persistent id."""
    persistent = (text("storage"), name("torch", kind), text(key), text("cpu"), integer(elements))
    return tuple_of(*persistent) + b"Q"


def tensor(
    stored: bytes | None = None,
    offset: int = 0,
    shape: Sequence[int] = (4,),
    stride: Sequence[int] = (1,),
) -> bytes:
    """Opcodes that push a tensor."""
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + tuple_of(
            storage() if stored is None else stored,
            integer(offset),
            tuple_of(*map(integer, shape)),
            tuple_of(*map(integer, stride)),
            b"\x89",
            name("collections", "OrderedDict") + b")R",
        )
        + b"R"
    )


def pickled(*items: bytes, tail: bytes = b"") -> bytes:
    """A pickle of an OrderedDict of these keys and values."""
    return (
        b"\x80\x02"
        + name("collections", "OrderedDict")
        + b")R("
        + b"".join(items)
        + b"u"
        + tail
        + b"."
    )
