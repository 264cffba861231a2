"""The tensors of a file that ``torch.save`` wrote, read as data: by name, offset and stride.

Two formats: the zip archive of torch 1.6 and later, whose members are stored as they are, and the one
before it, four pickles and then the storages. The pickle goes through `tensor_pickle`, which can call
nothing. Nothing here imports torch.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from pyneurons.errors import InputError
from pyneurons.model import zip_directory
from pyneurons.model.regular_file import Version, check_version, open_regular, pread_into
from pyneurons.model.safetensors_file import DTYPE_BYTES, MOST_NAME_BYTES, MOST_TENSORS
from pyneurons.model.tensor_pickle import MOST_PICKLE_BYTES, Storage, View, read_pickle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from pyneurons.model.zip_directory import Member

MOST_STRIDED_BYTES: Final = 2 << 30
"""Most bytes that a tensor which is no contiguous stretch of its storage may span: it is read whole."""

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
_KEY: Final = re.compile(r"\d{1,20}", flags=re.ASCII)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the file: a strided view of the bytes of a storage."""

    name: str
    dtype: str  # as safetensors calls it: F16, BF16, F32, ...
    shape: tuple[int, ...]
    stride: tuple[int, ...]  # in elements, as the offset
    offset: int
    storage: str  # its key

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of all elements."""
        return self.elements * DTYPE_BYTES[self.dtype]

    @property
    def span(self) -> int:
        """Bytes of the storage from the first element to the last one."""
        last = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * DTYPE_BYTES[self.dtype]

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in the storage in order and without gaps."""
        step = 1
        for n, given in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if n != 1 and given != step:
                return False
            step *= n
        return True

    def same_memory(self, other: StoredTensor) -> bool:
        """Whether another tensor of the file is these very elements."""
        return (self.storage, self.offset, self.shape, self.stride) == (
            other.storage,
            other.offset,
            other.shape,
            other.stride,
        )


@dataclass(frozen=True)
class _Place:
    """Where the bytes of a storage lie; ``member`` has their checksum where the format has one."""

    offset: int
    bytes: int
    member: Member | None = None


class TorchFile:
    """An open file of ``torch.save``, its tensors checked against the storages that they view.

    Parameters
    ----------
    path : Path
        It holds a dict of tensors by name.

    Attributes
    ----------
    tensors : dict of str to StoredTensor
        In the order of the file.

    Raises
    ------
    InputError
        If it is neither format, or anything in it is malformed, out of bounds or of a kind that a
        checkpoint of tensors does not need.
    IntegrityError
        If a checksum is wrong, or the file changes while it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as opened:
            self._descriptor = opened.enter_context(open_regular(path))
            self._version = Version.of(os.fstat(self._descriptor))
            self.size = self._version.size
            if zip_directory.is_zip(self._descriptor):
                value, self._storages = self._read_zip()
            else:
                value, self._storages = self._read_legacy()
            self.tensors = self._check(value)
            self._verified: set[str] = set()
            self._close = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close.close()

    def read(self, tensor: StoredTensor) -> Iterator[bytes | memoryview]:
        """Yield the bytes of a tensor in pieces, in row-major order.

        Memory: 4 MiB for a tensor that is contiguous, else twice its span.

        Raises
        ------
        IntegrityError
            If the storage's checksum is wrong or the file changed, at the latest behind the last
            piece.
        """
        place = self._storages[tensor.storage]
        size = DTYPE_BYTES[tensor.dtype]
        begin = place.offset + tensor.offset * size
        whole = tensor.contiguous and tensor.bytes == place.bytes
        if not whole:
            self._verify(tensor.storage)
        if tensor.contiguous:
            crc = 0
            for piece in zip_directory.chunks(self._descriptor, begin, tensor.bytes, self.path):
                if whole:
                    crc = zlib.crc32(piece, crc)
                yield piece
            if whole:
                self._compare(tensor.storage, crc)
        else:
            spanned = np.empty(tensor.span, np.uint8)
            pread_into(self._descriptor, begin, spanned.data, self.path)
            strided = np.lib.stride_tricks.as_strided(
                spanned.view(f"u{size}"), tensor.shape, [step * size for step in tensor.stride]
            )
            yield np.ascontiguousarray(strided).data.cast("B")
        check_version(self.path, self._descriptor, self._version)

    def _verify(self, key: str) -> None:
        """Read a storage for its checksum alone, once."""
        place = self._storages[key]
        if place.member is None or key in self._verified:
            return
        crc = 0
        for piece in zip_directory.chunks(self._descriptor, place.offset, place.bytes, self.path):
            crc = zlib.crc32(piece, crc)
        self._compare(key, crc)

    def _compare(self, key: str, crc: int) -> None:
        member = self._storages[key].member
        if member is not None:
            zip_directory.check_crc(crc, member, self.path)
        self._verified.add(key)

    def _read_zip(self) -> tuple[Any, dict[str, _Place]]:
        members = zip_directory.read_directory(self._descriptor, self.size, self.path)
        roots = {name.split("/")[0] for name in members}
        root = next(iter(roots), "")
        pickled = members.get(f"{root}/data.pkl")
        if len(roots) != 1 or pickled is None:
            message = f"{self.path}: a zip archive, but without the data.pkl of torch.save"
            raise InputError(message)
        if f"{root}/constants.pkl" in members:
            message = f"{self.path}: a TorchScript program, not a checkpoint; it is never run"
            raise InputError(message)
        order = members.get(f"{root}/byteorder")
        if order is not None:
            found = zip_directory.read_member(self._descriptor, order, self.path, most_bytes=16)
            if found != b"little":
                message = f"{self.path}: byte order {found!r}, only little-endian files are read"
                raise InputError(message)
        data = zip_directory.read_member(
            self._descriptor, pickled, self.path, most_bytes=MOST_PICKLE_BYTES
        )
        value, end = read_pickle(data, f"{self.path}: data.pkl")
        if end != len(data):
            message = f"{self.path}: data.pkl: {len(data) - end:,} bytes behind the pickle"
            raise InputError(message)
        head = f"{root}/data/"
        return value, {
            name.removeprefix(head): _Place(member.offset, member.bytes, member)
            for name, member in members.items()
            if name.startswith(head)
        }

    def _read_legacy(self) -> tuple[Any, dict[str, _Place]]:
        head = os.pread(self._descriptor, MOST_PICKLE_BYTES, 0)
        where = str(self.path)
        magic, end = read_pickle(head, f"{where} (neither a zip archive nor an older torch file)")
        protocol, end = read_pickle(head, where, end)
        system, end = read_pickle(head, where, end)
        if magic != _MAGIC or protocol != _PROTOCOL or not isinstance(system, dict):
            message = f"{where}: not a file of torch.save"
            raise InputError(message)
        if system.get("little_endian") is not True:
            message = f"{where}: only little-endian files are read"
            raise InputError(message)
        value, end = read_pickle(head, where, end)
        keys, end = read_pickle(head, where, end)
        known = _storages_of(value, self.path)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            message = f"{where}: no list of storages behind the tensors"
            raise InputError(message)
        if len(set(keys)) != len(keys) or set(keys) != set(known):
            message = f"{where}: the list of storages and the tensors do not agree"
            raise InputError(message)
        places: dict[str, _Place] = {}
        for key in keys:
            elements = int.from_bytes(os.pread(self._descriptor, 8, end), "little")
            size = elements * DTYPE_BYTES[known[key].dtype]
            end += 8
            if elements != known[key].elements or end + size > self.size:
                message = (
                    f"{where}: storage {key[:40]!r} has {elements:,} elements at byte {end:,}, the "
                    f"pickle says {known[key].elements:,}, the file ends at {self.size:,}; is the "
                    "download complete?"
                )
                raise InputError(message)
            places[key] = _Place(end, size)
            end += size
        if end != self.size:
            message = f"{where}: {self.size - end:,} bytes behind the last storage"
            raise InputError(message)
        return value, places

    def _check(self, value: Any) -> dict[str, StoredTensor]:
        """Return the tensors of the unpickled dict, each inside its storage."""
        if not isinstance(value, dict) or not value or len(value) > MOST_TENSORS:
            message = (
                f"{self.path}: holds a {type(value).__name__.strip('_')}, expected 1 to "
                f"{MOST_TENSORS:,} tensors by name"
            )
            raise InputError(message)
        declared = _storages_of(value, self.path)
        for key, storage in declared.items():
            place = self._storages.get(key) if _KEY.fullmatch(key) else None
            expected = storage.elements * DTYPE_BYTES[storage.dtype]
            if place is None or place.bytes != expected:
                found = "is not in the file" if place is None else f"has {place.bytes:,} bytes"
                message = (
                    f"{self.path}: storage {key[:40]!r} {found}, the pickle says {expected:,} "
                    f"bytes ({storage.elements:,} of {storage.dtype})"
                )
                raise InputError(message)
        tensors: dict[str, StoredTensor] = {}
        for name, view in value.items():
            where = f"{self.path}: tensor {name[:200]!r}"
            # JSON can write a lone surrogate, UTF-8 and safetensors cannot.
            if not 0 < len(name.encode("utf-8", "replace")) <= MOST_NAME_BYTES or not _encodes(
                name
            ):
                message = f"{where}: a name of at most {MOST_NAME_BYTES} bytes of UTF-8 is expected"
                raise InputError(message)
            storage = view.storage
            tensor = StoredTensor(
                name, storage.dtype, view.shape, view.stride, view.offset, storage.key
            )
            if not 0 < tensor.elements <= storage.elements:
                message = (
                    f"{where}: {tensor.elements:,} elements of shape {list(view.shape)}, expected "
                    f"1 to {storage.elements:,}, those of its storage"
                )
                raise InputError(message)
            end = view.offset * DTYPE_BYTES[storage.dtype] + tensor.span
            if end > storage.elements * DTYPE_BYTES[storage.dtype]:
                message = (
                    f"{where}: shape {list(view.shape)} with strides {list(view.stride)} from "
                    f"{view.offset:,} on reaches past the {storage.elements:,} elements of its storage"
                )
                raise InputError(message)
            if not tensor.contiguous and tensor.span > MOST_STRIDED_BYTES:
                message = (
                    f"{where}: strided over {tensor.span:,} bytes, at most {MOST_STRIDED_BYTES:,}"
                )
                raise InputError(message)
            tensors[name] = tensor
        return tensors


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _storages_of(value: Any, path: Path) -> dict[str, Storage]:
    """Return the storages that the tensors of a dict view, by key."""
    found: dict[str, Storage] = {}
    for name, view in value.items() if isinstance(value, dict) else ():
        if not isinstance(view, View):
            message = (
                f"{path}: {name[:200]!r} is a {type(view).__name__.strip('_')}, expected a tensor"
            )
            raise InputError(message)
        if found.setdefault(view.storage.key, view.storage) != view.storage:
            message = f"{path}: storage {view.storage.key[:40]!r} is described in two ways"
            raise InputError(message)
    return found
