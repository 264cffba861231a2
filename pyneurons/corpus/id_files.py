"""Token ids from arrays: .npy (2-d: rows, 1-d: one stream), .bin (one stream), NumPy arrays.

No file is memory-mapped and nothing is unpickled: the header is parsed as data, its shape is
compared with the file's size, and the ids are read forward in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from math import prod
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from pyneurons.corpus.bytestreams import CHUNK_BYTES, MeteredFile
from pyneurons.corpus.documents import (
    BoundarySplitter,
    Ids,
    Integers,
    Part,
    check_ids,
    ids_dtype,
)
from pyneurons.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pyneurons.corpus.tally import SourceRecord, Tally

HEADER_BYTES: Final = 1 << 16
"""More than NumPy's own bound of a header, 10,000 characters."""

BLOCK_IDS: Final = CHUNK_BYTES
"""Ids of an array in memory looked at together."""


class Layout(NamedTuple):
    """Where the ids of a file lie: dtype, shape and the byte at which they begin."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class IdFile:
    """A .npy or .bin file whose size agrees with its header."""

    path: Path
    layout: Layout
    source: SourceRecord


def npy_layout(path: Path) -> Layout:
    """Read the header of a .npy file of token ids.

    Raises
    ------
    InputError
        If it is not a 1-d or 2-d C-ordered array of integers, or has another size than it says.
    """
    try:
        # Its head alone: NumPy makes room for as many bytes as a header says it has, up to 4 GB.
        with path.open("rb") as file:
            head = BytesIO(file.read(HEADER_BYTES))
        if npy_format.read_magic(head) == (1, 0):
            shape, fortran, dtype = npy_format.read_array_header_1_0(head)
        else:
            shape, fortran, dtype = npy_format.read_array_header_2_0(head)
        offset = head.tell()
    # What NumPy raises when its header is no dict of literals depends on where that goes wrong.
    except (ValueError, TypeError, SyntaxError, RecursionError, TokenError, OSError) as error:
        message = f"{path}: not a readable .npy file: {error}"
        raise InputError(message) from error
    if dtype.kind not in "iu":
        message = f"{path}: dtype {dtype}, expected integers (token ids)"
        raise InputError(message)
    if len(shape) not in {1, 2} or min(shape) < 0:
        message = f"{path}: shape {list(shape)}, expected [sequences, context] or [tokens]"
        raise InputError(message)
    if fortran and len(shape) == 2:
        message = f"{path}: Fortran order; save numpy.ascontiguousarray(ids) instead"
        raise InputError(message)
    layout = Layout(dtype, shape, offset)
    _check_size(path, layout)
    return layout


def bin_layout(path: Path, vocab_size: int) -> Layout:
    """Return the layout of a flat .bin file, which has no header.

    Raises
    ------
    InputError
        If its size is no multiple of an id's.
    """
    dtype = np.dtype(ids_dtype(vocab_size)).newbyteorder("<")
    size = path.stat().st_size
    if size % dtype.itemsize:
        message = (
            f"{path}: {size} bytes, not a multiple of {dtype.itemsize}; a .bin file holds "
            f"little-endian {dtype.name} ids for a vocabulary of {vocab_size}"
        )
        raise InputError(message)
    return Layout(dtype, (size // dtype.itemsize,), 0)


def _check_size(path: Path, layout: Layout) -> None:
    size = path.stat().st_size
    expected = layout.offset + prod(layout.shape) * layout.dtype.itemsize
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        message = (
            f"{path}: {state}: {size} bytes, its header (shape {list(layout.shape)}, "
            f"{layout.dtype}) needs {expected}"
        )
        raise InputError(message)


def read_stream(
    ids: IdFile | Integers, vocab_size: int, tally: Tally, *, domain: str, name: str
) -> Iterator[Part]:
    """Yield the documents of a flat stream of ids, which id 2 separates.

    Parameters
    ----------
    ids : IdFile or array, [tokens]
    vocab_size : int
    tally : Tally
    domain, name : str
        For the parts and for messages.
    """
    splitter = BoundarySplitter(tally)
    empty = np.empty(0, ids_dtype(vocab_size))
    found = False
    for start, block in _blocks(ids, 1, tally):

        def where(at: int, start: int = start) -> str:
            return f"{name}: id {start + at}"

        checked = check_ids(block, vocab_size, where)
        for piece, last in splitter.split(checked):
            found = True
            yield Part(piece, last, domain, name)
    if splitter.open or not found:
        yield Part(empty, True, domain, name)


def read_rows(
    ids: IdFile | Integers, vocab_size: int, tally: Tally, name: str
) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    """Yield blocks ``[k, context]`` of the rows of a 2-d array of ids, padding still in them.

    Parameters
    ----------
    ids : IdFile or array, [sequences, context]
    vocab_size : int
    tally : Tally
    name : str
        For messages, which give row and column from 0.
    """
    context = shape_of(ids)[1]
    for start, block in _blocks(ids, context, tally):

        def where(at: int, start: int = start) -> str:
            return f"{name}: row {start + at // context}, column {at % context}"

        checked: Ids = check_ids(block, vocab_size, where)
        yield checked.reshape(-1, context)


def shape_of(ids: IdFile | Integers) -> tuple[int, ...]:
    """Return the shape of ids in a file or in memory."""
    return ids.layout.shape if isinstance(ids, IdFile) else ids.shape


def _blocks(
    ids: IdFile | Integers, width: int, tally: Tally
) -> Iterator[tuple[int, NDArray[np.integer[Any]]]]:
    """Yield (first row, block) of the rows of ``width`` ids."""
    rows = shape_of(ids)[0]
    if not isinstance(ids, IdFile):
        step = max(1, BLOCK_IDS // max(1, width))
        for start in range(0, rows, step):
            yield start, ids[start : start + step]
        return
    layout = ids.layout
    step = max(1, CHUNK_BYTES // max(1, width * layout.dtype.itemsize))
    with MeteredFile(ids.path, ids.source, tally) as file:
        _read_exactly(file, layout.offset)
        for start in range(0, rows, step):
            count = min(step, rows - start) * width
            data = _read_exactly(file, count * layout.dtype.itemsize)
            yield start, np.frombuffer(data, layout.dtype)
        file.finish()


def _read_exactly(file: MeteredFile, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (piece := file.read(size - len(data))):
        data += piece
    if len(data) < size:
        message = f"{file.path}: ended {size - len(data)} bytes early; it changed while it was read"
        raise InputError(message)
    return bytes(data)
