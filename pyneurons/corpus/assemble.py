"""`read`: from any form of input to a corpus."""

from __future__ import annotations

import operator
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, Protocol, SupportsIndex, cast, get_args

import numpy as np

from pyneurons.corpus.bytestreams import Errors
from pyneurons.corpus.corpus import Corpus, Packing
from pyneurons.corpus.documents import BOUNDARY_ID, Ids, Part, ids_dtype
from pyneurons.corpus.id_files import read_rows, read_stream, shape_of
from pyneurons.corpus.packing import Packer, RowPacker, Spool
from pyneurons.corpus.readers import (
    read_dataset,
    read_documents,
    read_jsonl,
    read_parquet,
    read_txt,
)
from pyneurons.corpus.records import DocumentReader
from pyneurons.corpus.sources import DEFAULT_DOMAIN, Source, resolve
from pyneurons.corpus.tally import Tally
from pyneurons.corpus.token_strings import token_strings
from pyneurons.corpus.tokenise import TextEncoder
from pyneurons.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

MAX_DOMAINS: Final = 256
"""More distinct domains than this are taken for a mistaken ``domain_field``."""

MAX_POSITIONS: Final = 2**31 - 1
"""Rows are numbered in int32."""

PROGRESS_BYTES: Final = 1 << 20
PROGRESS_TOKENS: Final = 1 << 16

Limit = int | Mapping[str, int] | None


class Progress(Protocol):
    """Called while a corpus is read.

    ``done_bytes`` of ``total_bytes`` of the files are read (the total is None where some input is
    no file) and ``tokens`` positions are packed. An exception it raises ends the reading.
    """

    def __call__(self, done_bytes: int, total_bytes: int | None, tokens: int) -> None:
        """Take note."""


@dataclass(frozen=True)
class _Options:
    """The checked arguments of `read`."""

    context: int
    packing: Packing
    vocab_size: int
    domain_field: str | None
    separator: str | None
    max_tokens: Limit
    shuffle_seed: int | None

    @property
    def reads_everything(self) -> bool:
        """Which sequences are kept is known only at the end."""
        return self.shuffle_seed is not None or self.domain_field is not None


def read(
    corpus: object,
    tokenizer: Tokenizer | None,
    *,
    context: int,
    packing: str = "pack",
    vocab_size: int,
    text_field: str = "text",
    domain_field: str | None = None,
    document_separator: str | None = None,
    max_tokens: int | Mapping[str, int] | None = None,
    shuffle_seed: int | None = None,
    errors: str = "strict",
    allow_repeats: bool = False,
    progress: Progress | None = None,
    scratch: Path | None = None,
) -> Corpus:
    """Read, tokenise and pack a corpus.

    Parameters
    ----------
    corpus : str, PathLike, iterable, dataset, ndarray or dict
        A path or glob (.txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .npy, .bin); an iterable of
        `pathlib.Path`, of str (documents), of token-id lists or of dicts; an object with
        ``column_names`` that iterates dicts; a 1-d or 2-d integer array, taken as a .npy; or a
        dict ``{domain: any of these}``.
    tokenizer : tokenizers.Tokenizer or None
        Left as it is. None where every document is given as token ids.
    context : int
        Longest sequence, BOS included; at least 2.
    packing : {"pack", "document"}
        Documents joined in sequences, or each document its own sequences. A 2-d .npy is always
        taken row by row, packing ``"rows"``.
    vocab_size : int
        V; every id must be below.
    text_field, domain_field : str
        A field, or a path such as ``meta.pile_set_name``. A record without the text field may have
        its ids in ``tokens`` or ``input_ids``. Domains come in order of appearance.
    document_separator : str, optional
        What separates the documents of a .txt file, which is otherwise one document.
    max_tokens : int or dict, optional
        Positions to run: split evenly over the domains (the first ones get the remainder), or per
        domain (one that is not named has no limit). The longest run of whole sequences from the
        first that does not exceed it is kept.
    shuffle_seed : int, optional
        Draws the order of the sequences of each domain; it depends on the seed, the domain's name
        and the number of its sequences alone.
    errors : {"strict", "replace"}
        Invalid UTF-8 stops the reading, or becomes U+FFFD and is counted.
    allow_repeats : bool
        Take a file that the corpus has already, by another name or as a copy.
    progress : callable, optional
        ``progress(done_bytes, total_bytes, tokens)``, see `Progress`.
    scratch : Path, optional
        The folder whose disk holds the ids: 2 bytes a position (4 where V > 65,536), twice that
        while sequences are put in order.

    Raises
    ------
    InputError
        For anything wrong with the input, naming file and line.
    IntegrityError
        If a file changes while it is read.
    ResourceError
        If the ids do not fit ``scratch``.

    Notes
    -----
    Memory does not grow with the input, but for 12 bytes a sequence and the longest of: one line
    or record, one stretch of text in which `pyneurons.corpus.tokenise` finds no place to cut, or,
    with a tokenizer that is not byte-level, one document.
    """
    options = _check_options(
        context, packing, vocab_size, domain_field, document_separator, max_tokens, shuffle_seed
    )
    if errors not in get_args(Errors):
        message = f"errors: {errors!r}, expected 'strict' or 'replace'"
        raise InputError(message)
    tally = Tally()
    sources = resolve(corpus, options.vocab_size, allow_repeats=allow_repeats)
    tally.sources = [source.record for source in sources]
    _check_sources(sources, options)
    reader = DocumentReader(
        text_field, domain_field, cast("Errors", errors), options.vocab_size, tally
    )
    sizes = [source.record["bytes"] for source in sources]
    meter = _Meter(progress, tally, None if None in sizes else sum(filter(None, sizes)))
    rows = _row_context(sources, options)
    with closing(Spool(ids_dtype(options.vocab_size), scratch)) as spool:
        assembly = _Assembly(options, sources, tally, spool, meter)
        if rows is None:
            encoder = None if tokenizer is None else TextEncoder(tokenizer, options.vocab_size)
            assembly.pack_documents(reader, encoder)
        else:
            assembly.pack_rows()
        meter.report(spool.positions)
        lengths, domain, ids = assembly.arrange(scratch)
    return Corpus(
        ids=ids,
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        sequence_domain=domain,
        domains=tuple(assembly.domains),
        context=options.context if rows is None else rows,
        vocab_size=options.vocab_size,
        boundary_id=BOUNDARY_ID,
        packing=options.packing if rows is None else "rows",
        left_out=tally.left_out() | assembly.over_limit,
        documents=tally.documents,
        sources=tally.sources,
        strings=[] if tokenizer is None else token_strings(tokenizer, options.vocab_size),
    )


class _Meter:
    """Calls the progress callback now and then."""

    def __init__(self, progress: Progress | None, tally: Tally, total: int | None) -> None:
        self._progress = progress
        self._tally = tally
        self._total = total
        self._next_bytes = 0
        self._next_tokens = 0

    def tick(self, tokens: int) -> None:
        """Report if enough was done since the last report."""
        if self._tally.done_bytes >= self._next_bytes or tokens >= self._next_tokens:
            self.report(tokens)

    def report(self, tokens: int) -> None:
        """Report."""
        self._next_bytes = self._tally.done_bytes + PROGRESS_BYTES
        self._next_tokens = tokens + PROGRESS_TOKENS
        if self._progress is not None:
            self._progress(self._tally.done_bytes, self._total, tokens)


class _Assembly:
    """Packs every source into the spool, then puts its sequences in their final order."""

    def __init__(
        self,
        options: _Options,
        sources: list[Source],
        tally: Tally,
        spool: Spool,
        meter: _Meter,
    ) -> None:
        self._options = options
        self._sources = sources
        self._tally = tally
        self._spool = spool
        self._meter = meter
        self.over_limit: dict[str, int | None] = {}
        self.domains: list[str] = []
        if options.domain_field is None:
            self.domains = list(dict.fromkeys(source.domain for source in sources))
            self._check_limits()

    def pack_documents(self, reader: DocumentReader, encoder: TextEncoder | None) -> None:
        """Pack the documents of all sources but rows."""
        for name, group in groupby(self._sources, lambda source: source.domain):
            packers: dict[str, Packer] = {}
            if self._options.domain_field is None:
                packers[name] = self._packer(name)
            parts = (part for source in group for part in self._read(source, reader))
            encoded = _ids_only(parts) if encoder is None else encoder.encode(parts)
            with closing(encoded):
                for part in encoded:
                    ids = cast("Ids", part.content)
                    packer = packers.get(part.domain)
                    if packer is None:
                        if not ids.size:  # a domain begins with its first token
                            self._tally.empty_documents += part.last
                            continue
                        packer = packers[part.domain] = self._new_domain(part)
                    packer.add(ids)
                    if part.last:
                        packer.end_document()
                    if packer.full:
                        break
                    self._check_positions()
                    self._meter.tick(self._spool.positions)
            for packed, packer in packers.items():
                packer.finish()
                self._note_limit(packed, full=packer.full)

    def pack_rows(self) -> None:
        """Take the rows of all sources."""
        for name, group in groupby(self._sources, lambda source: source.domain):
            packer = RowPacker(
                self._spool,
                self.domains.index(name),
                limit=self._limit(name),
                tally=self._tally,
            )
            blocks = (
                rows
                for source in group
                if source.ids is not None
                for rows in read_rows(
                    source.ids, self._options.vocab_size, self._tally, source.name
                )
            )
            with closing(blocks):
                for rows in blocks:
                    packer.add(rows)
                    if packer.full:
                        break
                    self._check_positions()
                    self._meter.tick(self._spool.positions)
            self._note_limit(name, full=packer.full)

    def arrange(self, scratch: Path | None) -> tuple[NDArray[np.int64], NDArray[np.int32], Ids]:
        """Return lengths, domains and ids of the sequences that are kept, in their final order."""
        lengths, domain = self._spool.lengths, self._spool.domains
        self._refuse_empty(domain)
        self._check_positions()
        ids = self._spool.ids()
        if not self._options.reads_everything:
            return lengths, domain, ids
        self._check_limits()
        chosen = [
            self._choose(name, np.flatnonzero(domain == at), lengths)
            for at, name in enumerate(self.domains)
        ]
        order = np.concatenate(chosen)
        starts = np.cumsum(lengths) - lengths
        with closing(Spool(self._spool.dtype, scratch)) as arranged:
            for sequence in order.tolist():
                start, length = int(starts[sequence]), int(lengths[sequence])
                arranged.write(int(domain[sequence]), ids[start : start + length], [length])
            return lengths[order], domain[order], arranged.ids()

    def _check_positions(self) -> None:
        """Stop at the bound, not when the disk is full."""
        if self._spool.positions > MAX_POSITIONS:
            message = (
                f"corpus: {self._spool.positions} positions, at most {MAX_POSITIONS} in one scan; "
                "pass max_tokens or scan it in parts and merge the runs"
            )
            raise InputError(message)

    def _read(self, source: Source, reader: DocumentReader) -> Iterator[Part]:
        """Yield the parts of one source."""
        domain, name = source.domain, source.name
        match source:
            case Source(kind="txt", path=Path() as path):
                return read_txt(
                    path, source.record, reader, domain=domain, separator=self._options.separator
                )
            case Source(kind="jsonl", path=Path() as path):
                return read_jsonl(path, source.record, reader, domain=domain)
            case Source(kind="parquet", path=Path() as path):
                return read_parquet(path, source.record, reader, domain=domain)
            case Source(ids=ids) if ids is not None:
                return read_stream(
                    ids, self._options.vocab_size, self._tally, domain=domain, name=name
                )
            case Source(kind="dataset"):
                return read_dataset(source.values, reader, domain=domain, name=name)
            case _:
                return read_documents(source.values, reader, domain=domain, name=name)

    def _packer(self, name: str) -> Packer:
        return Packer(
            self._spool,
            self.domains.index(name),
            context=self._options.context,
            joined=self._options.packing == "pack",
            limit=self._limit(name),
            tally=self._tally,
        )

    def _new_domain(self, part: Part) -> Packer:
        """Return the packer of a domain that a record names for the first time."""
        if len(self.domains) == MAX_DOMAINS:
            message = (
                f"{part.where}: field {self._options.domain_field!r} names domain {part.domain!r}, "
                f"number {MAX_DOMAINS + 1}; at most {MAX_DOMAINS} are kept apart"
            )
            raise InputError(message)
        self.domains.append(part.domain)
        return self._packer(part.domain)

    def _limit(self, name: str) -> int | None:
        """Return the positions at which packing a domain may stop."""
        return None if self._options.reads_everything else self._share(name)

    def _share(self, name: str) -> int | None:
        """Return the positions of ``max_tokens`` that a domain has."""
        limit = self._options.max_tokens
        if limit is None:
            return None
        if isinstance(limit, Mapping):
            return limit.get(name)
        share, rest = divmod(limit, len(self.domains))
        return share + (self.domains.index(name) < rest)

    def _check_limits(self) -> None:
        limit = self._options.max_tokens
        unknown = sorted(set(limit) - set(self.domains)) if isinstance(limit, Mapping) else []
        if unknown:
            message = (
                f"max_tokens: no domain {unknown[0]!r}; the corpus has {', '.join(self.domains)}"
            )
            raise InputError(message)

    def _note_limit(self, name: str, *, full: bool) -> None:
        """Record that a domain was read to its end, or only to its limit."""
        limit = self._limit(name)
        if limit is None:
            return
        if full and self.domains.index(name) not in self._spool.domains:
            raise _too_small(name, limit)
        self.over_limit[f"over_max_tokens:{name}"] = None if full else 0

    def _choose(
        self, name: str, sequences: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the sequences of one domain that are kept, in their final order."""
        seed = self._options.shuffle_seed
        if seed is not None:
            # random() of a seeded Random is the same in every version of Python.
            draw = Random(f"{seed}:{name}").random
            keys = np.array([draw() for _ in range(sequences.size)])
            sequences = sequences[np.argsort(keys, kind="stable")]
        limit = self._share(name)
        if limit is None:
            return sequences
        ends = np.cumsum(lengths[sequences])
        kept = int(np.searchsorted(ends, limit, side="right"))
        if kept == 0:
            raise _too_small(name, limit, int(ends[0]))
        self.over_limit[f"over_max_tokens:{name}"] = int(ends[-1] - ends[kept - 1])
        return sequences[:kept]

    def _refuse_empty(self, domain: NDArray[np.int32]) -> None:
        have = set(np.unique(domain).tolist())
        for at, name in enumerate(self.domains):
            if at not in have:
                paths = [s.name for s in self._sources if s.domain == name] or [name]
                message = f"{paths[0]}: an empty corpus, there is no token in domain {name!r}"
                raise InputError(message)
        if not have:
            message = f"{self._sources[0].name}: an empty corpus, there is no token in it"
            raise InputError(message)


def _too_small(name: str, limit: int, first: int | None = None) -> InputError:
    need = "" if first is None else f", which has {first}"
    return InputError(
        f"max_tokens: the {limit} positions of domain {name!r} do not hold its first whole "
        f"sequence{need}; raise max_tokens or lower context"
    )


def _ids_only(parts: Iterator[Part]) -> Generator[Part, None, None]:
    """Pass documents that are ids; text cannot be read without a tokenizer."""
    for part in parts:
        if isinstance(part.content, str):
            message = (
                f"{part.where}: text, but the model has no tokenizer; put its tokenizer.json (or "
                "vocab.json and merges.txt) beside it, pass tokenizer=, or give token ids"
            )
            raise InputError(message)
        yield part


def _check_options(
    context: int,
    packing: str,
    vocab_size: int,
    domain_field: str | None,
    separator: str | None,
    max_tokens: Limit,
    shuffle_seed: int | None,
) -> _Options:
    if packing not in get_args(Packing):
        message = f"packing: {packing!r}, expected 'pack' or 'document'"
        raise InputError(message)
    if separator == "":
        message = "document_separator: empty; leave it out for one document per file"
        raise InputError(message)
    limit: Limit = None
    if isinstance(max_tokens, Mapping):
        limit = {
            name: _integer(value, f"max_tokens[{name!r}]", 1) for name, value in max_tokens.items()
        }
    elif max_tokens is not None:
        limit = _integer(max_tokens, "max_tokens", 1)
    return _Options(
        context=_integer(context, "context", 2),
        packing=cast("Packing", packing),
        vocab_size=_integer(vocab_size, "vocab_size", BOUNDARY_ID + 1),
        domain_field=domain_field,
        separator=separator,
        max_tokens=limit,
        shuffle_seed=None if shuffle_seed is None else _integer(shuffle_seed, "shuffle_seed", 0),
    )


def _integer(value: SupportsIndex, name: str, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        message = f"{name}: {value!r}, expected an integer of at least {least}"
        raise InputError(message)
    return number


def _check_sources(sources: Iterable[Source], options: _Options) -> None:
    """Refuse options that no input, or not every input, can follow."""
    kinds = {source.kind: source.name for source in sources}
    if options.separator is not None and "txt" not in kinds:
        message = "document_separator: is for .txt files, and the corpus has none"
        raise InputError(message)
    if options.domain_field is None:
        return
    for kind in ("txt", "ids", "documents"):
        if kind in kinds:
            message = f"domain_field: {kinds[kind]} has no fields; name domains by a dict instead"
            raise InputError(message)
    if any(source.domain != DEFAULT_DOMAIN for source in sources):
        message = "domain_field: the corpus is a dict that names its domains already"
        raise InputError(message)


def _row_context(sources: list[Source], options: _Options) -> int | None:
    """Return T of a corpus of 2-d arrays; None for any other.

    Raises
    ------
    InputError
        If only some of the inputs are 2-d, or T differs or is longer than the context.
    """
    widths = {
        source.name: shape_of(source.ids)[1] if len(shape_of(source.ids)) == 2 else None
        for source in sources
        if source.ids is not None
    }
    rows = {name: width for name, width in widths.items() if width is not None}
    if not rows:
        if options.packing == "rows":
            message = "packing: 'rows' is for a corpus of 2-d .npy files; expected 'pack'"
            raise InputError(message)
        return None
    (name, width), *others = rows.items()
    if len(rows) < len(sources):
        other = next(source.name for source in sources if source.name not in rows)
        message = f"{other}: documents, but {name} has rows that are sequences; scan them apart"
        raise InputError(message)
    for other, different in others:
        if different != width:
            message = f"{other}: rows of {different} ids, but {name} has rows of {width}"
            raise InputError(message)
    if not 2 <= width <= options.context:
        message = f"{name}: rows of {width} ids, expected 2 to {options.context} (the context)"
        raise InputError(message)
    return width
