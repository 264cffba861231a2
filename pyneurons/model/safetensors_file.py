"""The header of a safetensors file: where each tensor lies, so that it can be read with pread."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyneurons.errors import InputError
from pyneurons.model.regular_file import Version, open_regular
from pyneurons.model.strict_json import parse_object

if TYPE_CHECKING:
    from pathlib import Path

MOST_HEADER_BYTES: Final = 100_000_000
MOST_TENSORS: Final = 100_000
MOST_NAME_BYTES: Final = 1024
MOST_AXES: Final = 8

DTYPE_BYTES: Final = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}


@dataclass(frozen=True)
class Entry:
    """One tensor in a file."""

    file: Path
    name: str  # as written in the file
    dtype: str  # F16, BF16, F32, ...
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    bytes: int


@dataclass(frozen=True)
class Header:
    """All that a safetensors file says before its data."""

    file: Path
    version: Version
    raw: bytes
    entries: tuple[Entry, ...]


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    The tensors must cover the data exactly: no gap, no overlap, nothing behind the last one, no
    empty tensor, each as long as its shape and dtype say.

    Raises
    ------
    InputError
        Naming the file and what is wrong, before more than the header is read.
    """
    with open_regular(path) as descriptor, os.fdopen(descriptor, "rb", 0, closefd=False) as file:
        version = Version.of(os.fstat(descriptor))
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length < 2 or length > version.size - 8:
            message = (
                f"{path}: not a whole safetensors file ({version.size:,} bytes, header of "
                f"{length:,}); is the download complete?"
            )
            raise InputError(message)
        if length > MOST_HEADER_BYTES:
            message = f"{path}: header of {length:,} bytes, at most {MOST_HEADER_BYTES:,} are read"
            raise InputError(message)
        raw = file.read(length)
    if len(raw) != length:
        message = f"{path}: the header ends after {len(raw):,} of {length:,} bytes"
        raise InputError(message)
    described = parse_object(raw, f"{path}: header")
    described.pop("__metadata__", None)
    if len(described) > MOST_TENSORS:
        message = f"{path}: {len(described):,} tensors, at most {MOST_TENSORS:,} are read"
        raise InputError(message)
    entries = [_entry(path, 8 + length, name, value) for name, value in described.items()]
    entries.sort(key=lambda entry: entry.offset)
    _check_layout(path, 8 + length, version.size, entries)
    return Header(path, version, raw, tuple(entries))


def _entry(path: Path, start: int, name: str, value: Any) -> Entry:
    """Return one described tensor; ``start`` is where the data begins."""
    where = f"{path}: tensor {name[:200]!r}"
    if len(name.encode("utf-8", "surrogatepass")) > MOST_NAME_BYTES:
        message = f"{where}: the name is longer than {MOST_NAME_BYTES} bytes"
        raise InputError(message)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        message = f"{where}: expected dtype, shape and data_offsets"
        raise InputError(message)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        message = f"{where}: unknown dtype {dtype!r:.80}"
        raise InputError(message)
    if not _naturals(shape) or len(shape) > MOST_AXES or not _naturals(offsets):
        message = (
            f"{where}: shape (at most {MOST_AXES} axes) and data_offsets must be lists of integers "
            "from 0 to 2**63 - 1"
        )
        raise InputError(message)
    expected = math.prod(shape) * DTYPE_BYTES[dtype]
    if len(offsets) != 2 or offsets[1] - offsets[0] != expected or expected == 0:
        message = (
            f"{where}: data_offsets {offsets!r:.80} do not fit {dtype} {shape} "
            f"({expected:,} bytes, and more than 0)"
        )
        raise InputError(message)
    return Entry(path, name, dtype, tuple(shape), start + offsets[0], expected)


def _naturals(value: Any) -> bool:
    # Beyond 2**63 no file reaches, and Python would not print the product of such numbers.
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 1 << 63 for item in value
    )


def _check_layout(path: Path, start: int, size: int, entries: list[Entry]) -> None:
    """Check that the tensors, in order, fill the file from ``start`` to ``size``."""
    end = start
    for entry in entries:
        if entry.offset != end:
            what = "overlaps the one before" if entry.offset < end else "leaves a gap before it"
            message = f"{path}: tensor {entry.name[:200]!r} {what}"
            raise InputError(message)
        end += entry.bytes
    if end != size:
        message = (
            f"{path}: {size:,} bytes, expected {end:,} (header and tensors); "
            "is the download complete?"
        )
        raise InputError(message)
