"""From the argument ``corpus`` to the list of its inputs, all checked before any is read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from pyneurons.corpus.id_files import IdFile, bin_layout, npy_layout
from pyneurons.corpus.tally import SourceRecord
from pyneurons.errors import InputError

if TYPE_CHECKING:
    from pyneurons.corpus.documents import Integers

DEFAULT_DOMAIN: Final = "corpus"

Kind = Literal["txt", "jsonl", "parquet", "ids", "documents", "dataset"]

SUFFIXES: Final[dict[str, Kind]] = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".parquet": "parquet",
    ".npy": "ids",
    ".bin": "ids",
}


_END: Final = object()
_HEAD_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Source:
    """One input of the corpus, in the order in which they are read."""

    domain: str
    kind: Kind
    record: SourceRecord
    path: Path | None = None
    values: Iterable[object] = ()
    ids: IdFile | Integers | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.record["path"]


def resolve(corpus: object, vocab_size: int, *, allow_repeats: bool = False) -> list[Source]:
    """List the inputs of a corpus, domain by domain.

    Parameters
    ----------
    corpus : object
        As `pyneurons.corpus.read` takes it.
    vocab_size : int
        Tells the width of the ids of a .bin file.
    allow_repeats : bool
        Take a file that the corpus has already, by the same inode or the same bytes.

    Raises
    ------
    InputError
        For a file that is missing, empty, no regular file, of an unknown kind or named twice, a
        glob without a match, an array that is not of token ids, or a corpus of an unknown form.
    """
    if isinstance(corpus, Mapping):
        sources: list[Source] = []
        for domain, part in corpus.items():
            if not isinstance(domain, str) or not domain:
                message = f"corpus: a domain is named by a string, found {domain!r}"
                raise InputError(message)
            if isinstance(part, Mapping):
                message = f"corpus[{domain!r}]: a dict inside a dict; domains are not nested"
                raise InputError(message)
            sources += _one_domain(part, domain, f"corpus[{domain!r}]", vocab_size)
        if not sources:
            message = "corpus: an empty dict, expected {domain: corpus}"
            raise InputError(message)
    else:
        sources = _one_domain(corpus, DEFAULT_DOMAIN, "corpus", vocab_size)
    if not allow_repeats:
        _refuse_repeats(sources)
    return sources


def _one_domain(corpus: object, domain: str, name: str, vocab_size: int) -> list[Source]:
    if isinstance(corpus, (str, os.PathLike)):
        return [_file(path, domain, vocab_size) for path in _expand(os.fspath(corpus), name)]
    record = SourceRecord(domain=domain, path=f"<{name}>", bytes=None, sha256=None)
    if isinstance(corpus, np.ndarray) and corpus.ndim in {1, 2} and corpus.dtype.kind in "iu":
        return [Source(domain, "ids", record, ids=corpus)]
    if isinstance(corpus, (bytes, bytearray)) or not isinstance(corpus, Iterable):
        message = (
            f"{name}: found a {type(corpus).__name__}, expected a path or glob, an iterable of "
            "texts or of lists of token ids, a dataset, or a dict of these"
        )
        raise InputError(message)
    if hasattr(corpus, "column_names"):
        return [Source(domain, "dataset", record, values=corpus)]
    values = iter(corpus)
    first = next(values, _END)
    if first is _END:
        message = f"{name}: empty, there are no documents in it"
        raise InputError(message)
    values = chain([first], values)
    if isinstance(first, os.PathLike):
        return [
            _file(path, domain, vocab_size)
            for each in values
            for path in _expand(_path_of(each, name), name)
        ]
    kind: Kind = "dataset" if isinstance(first, Mapping) else "documents"
    return [Source(domain, kind, record, values=values)]


def _path_of(value: object, name: str) -> str | bytes:
    if not isinstance(value, os.PathLike):
        message = f"{name}: a list of paths with {value!r} in it; every element must be a Path"
        raise InputError(message)
    path: str | bytes = os.fspath(value)
    return path


def _expand(pattern: str | bytes, name: str) -> list[Path]:
    """Return the file of a path, or the files that a glob matches, sorted."""
    path = Path(os.fsdecode(pattern)).expanduser()
    if path.is_dir():
        kinds = sorted({_suffix(each) for each in path.iterdir() if _suffix(each) in SUFFIXES})
        suffix = kinds[0] if kinds else ".jsonl"
        message = f"{name}: {path} is a directory; name its files: '{path}/*{suffix}'"
        raise InputError(message)
    if path.exists():
        return [path]
    if not any(mark in str(path) for mark in "*?["):
        message = f"{name}: {path}: no such file"
        raise InputError(message)
    root = Path(path.anchor)
    # Sorted by code point, so that neither locale nor file system decides the order.
    found = sorted(root.glob(str(path.relative_to(root))), key=str)
    files = [each for each in found if not each.name.startswith(".") and not each.is_dir()]
    if not files:
        message = f"{name}: no file matches {path}"
        raise InputError(message)
    return files


def _suffix(path: Path) -> str:
    """Return the suffix that tells the kind of a file: the last one, or two if compressed."""
    suffixes = [each.lower() for each in path.suffixes]
    return "".join(suffixes[-2:] if suffixes[-1:] in ([".gz"], [".zst"]) else suffixes[-1:])


def _file(path: Path, domain: str, vocab_size: int) -> Source:
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        message = f"{path}: unknown kind of file {suffix!r}; a corpus is {', '.join(SUFFIXES)}"
        raise InputError(message)
    try:
        status = path.stat()
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}"
        raise InputError(message) from error
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would wait for its writer, and none can be read twice.
        message = f"{path}: not a regular file"
        raise InputError(message)
    if status.st_size == 0:
        message = f"{path}: an empty file"
        raise InputError(message)
    record = SourceRecord(domain=domain, path=str(path), bytes=status.st_size, sha256=None)
    if SUFFIXES[suffix] == "ids":
        layout = npy_layout(path) if suffix == ".npy" else bin_layout(path, vocab_size)
        return Source(domain, "ids", record, path, ids=IdFile(path, layout, record))
    return Source(domain, SUFFIXES[suffix], record, path)


def _refuse_repeats(sources: list[Source]) -> None:
    """Stop where one file, or a copy of it, is read twice: its tokens would be counted twice."""
    seen: dict[tuple[int, int], Path] = {}
    by_size: dict[int, list[Path]] = {}
    for source in sources:
        if source.path is None:
            continue
        status = source.path.stat()
        other = seen.setdefault((status.st_dev, status.st_ino), source.path)
        if other is not source.path:
            message = (
                f"{source.path}: the same file as {other}, which the corpus already has; "
                "leave it out, or pass allow_repeats=True to count it twice"
            )
            raise InputError(message)
        by_size.setdefault(status.st_size, []).append(source.path)
    # Shards of ids are often of one size: their first bytes tell them apart.
    for digest in (_head, _content):
        groups: dict[tuple[int, bytes], list[Path]] = {}
        for size, paths in by_size.items():
            for path in paths if len(paths) > 1 else ():
                groups.setdefault((size, digest(path)), []).append(path)
        by_size = dict(enumerate(paths for paths in groups.values() if len(paths) > 1))
    for first, second, *_ in by_size.values():
        message = (
            f"{second}: the same bytes as {first}, which the corpus already has; "
            "leave it out, or pass allow_repeats=True to count them twice"
        )
        raise InputError(message)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        message = f"{path}: cannot be opened: {error.strerror}"
        raise InputError(message) from error


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
