"""Safetensors files written piece by piece, so that no tensor need be in memory."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from pyneurons.errors import IntegrityError, ResourceError
from pyneurons.model.safetensors_file import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

_ALIGNMENT = 8


class Described(NamedTuple):
    """What the header says of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def in_file_order(tensors: Sequence[Described]) -> list[Described]:
    """Return tensors in the order in which a file holds them: wide elements first, so all aligned."""
    return sorted(tensors, key=lambda tensor: -DTYPE_BYTES[tensor.dtype])


def write_file(
    path: Path,
    tensors: Sequence[Described],
    pieces: Callable[[Described], Iterable[bytes | memoryview]],
) -> None:
    """Write a new file and wait until it is on the disk.

    Parameters
    ----------
    path : Path
        Must not exist.
    tensors : sequence of Described
        In file order.
    pieces : callable
        Gives the bytes of a tensor, in any number of pieces.

    Raises
    ------
    IntegrityError
        If the pieces of a tensor are not as long as it is said to be.
    ResourceError
        If the disk is full, or writing fails.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.bytes],
        }
        at += tensor.bytes
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    try:
        with path.open("xb") as file:
            file.write(len(raw).to_bytes(8, "little"))
            file.write(raw)
            for tensor in tensors:
                written = sum(file.write(piece) for piece in pieces(tensor))
                if written != tensor.bytes:
                    message = f"{path}: {tensor.name}: {written:,} of {tensor.bytes:,} bytes"
                    raise IntegrityError(message)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror})"
        raise ResourceError(message) from error
