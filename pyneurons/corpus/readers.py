"""Every form of input, read forward as the parts of its documents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from pyarrow import parquet

from pyneurons.corpus.bytestreams import check_expansion, read_lines, read_text
from pyneurons.corpus.documents import Part
from pyneurons.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyneurons.corpus.records import DocumentReader
    from pyneurons.corpus.tally import SourceRecord

PARQUET_ROWS: Final = 256
"""Rows of a parquet file decoded together."""

LINE_VALUES: Final = 1 << 23
"""Most values of one line of JSON: token ids take 8 bytes each in Python's list, others up to 100."""


def read_txt(
    path: Path,
    source: SourceRecord,
    reader: DocumentReader,
    *,
    domain: str,
    separator: str | None,
) -> Iterator[Part]:
    """Yield the documents of a text file: one, or those between separators."""
    pieces = read_text(path, source, reader.tally, reader.errors)
    if separator is None:
        for piece in pieces:
            yield Part(piece, False, domain, str(path))
        yield Part("", True, domain, str(path))
        return
    number = 1
    for piece, last in split_text(pieces, separator):
        yield Part(piece, last, domain, f"{path}: document {number}")
        number += last


def split_text(pieces: Iterable[str], separator: str) -> Iterator[tuple[str, bool]]:
    """Yield what ``"".join(pieces).split(separator)`` gives, as (piece, ends a document)."""
    held = ""
    for piece in pieces:
        held += piece
        *whole, held = held.split(separator)
        for document in whole:
            yield document, True
        # What a separator across the next border may still need stays.
        ready = len(held) - len(separator) + 1
        if ready > 0:
            yield held[:ready], False
            held = held[ready:]
    yield held, True


def read_jsonl(
    path: Path, source: SourceRecord, reader: DocumentReader, *, domain: str
) -> Iterator[Part]:
    """Yield the documents of a file with one JSON object on each line; blank lines are none.

    Raises
    ------
    InputError
        For a line that is not a JSON object with the fields asked for.
    """
    for number, line in read_lines(path, source, reader.tally, reader.errors):
        if not line or line.isspace():
            continue
        where = f"{path}:{number}"
        # Marks inside strings count as well; only a line of more characters can have so many.
        if len(line) > LINE_VALUES and sum(map(line.count, ",[{")) > LINE_VALUES:
            message = f"{where}: more than {LINE_VALUES} values in one line; cut the document"
            raise InputError(message)
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = f"{where}: not valid JSON: {error}"
            raise InputError(message) from error
        yield from reader.record(record, domain=domain, where=where)


def read_parquet(
    path: Path, source: SourceRecord, reader: DocumentReader, *, domain: str
) -> Iterator[Part]:
    """Yield the documents of a parquet file, one a row.

    Raises
    ------
    InputError
        If the file is damaged or lacks the columns asked for.
    """
    try:
        yield from _parquet_rows(path, reader, domain)
        with path.open("rb") as file:
            source["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    except (pa.ArrowException, OSError) as error:
        message = f"{path}: not a readable parquet file: {error}"
        raise InputError(message) from error
    reader.tally.done_bytes += source["bytes"] or 0


def _parquet_rows(path: Path, reader: DocumentReader, domain: str) -> Iterator[Part]:
    # One long value may stand in a file once and count for every row: as a dictionary it is in
    # memory once as well (a file of 900 bytes took 6 GB).
    with parquet.ParquetFile(path, pre_buffer=False) as file:
        metadata, schema = file.metadata, file.schema
    paths = {schema.column(at).path for at in range(len(schema))} & {reader.text_field}
    with parquet.ParquetFile(
        path, metadata=metadata, pre_buffer=False, read_dictionary=[*paths]
    ) as file:
        names = file.schema_arrow.names
        size = path.stat().st_size
        row = expanded = 0
        for batch in file.iter_batches(PARQUET_ROWS, columns=reader.columns(names)):
            columns = {
                name: _as_bytes(column) if name == reader.text_field else column
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
            for at in range(batch.num_rows):
                where = f"{path}: row {row}"
                record = {name: _value(column[at], where) for name, column in columns.items()}
                text = record.get(reader.text_field)
                if isinstance(text, bytes):
                    expanded += len(text)
                    check_expansion(path, size, expanded)
                yield from reader.record(record, domain=domain, where=where, names=names)
                row += 1


def _as_bytes(column: pa.Array) -> pa.Array:
    """Return strings as bytes, to be decoded like a file: Arrow does not check their UTF-8."""
    if isinstance(column, pa.DictionaryArray):
        values = _as_bytes(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, values)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return column.cast(pa.large_binary()) if is_text else column


def _value(scalar: pa.Scalar, where: str) -> object:
    if isinstance(scalar, pa.ListScalar):  # token ids: a Python list would cost 100 ns each
        return None if scalar.values is None else scalar.values.to_numpy(zero_copy_only=False)
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        message = f"{where}: a string that is not valid UTF-8: {error.reason}"
        raise InputError(message) from error


def read_documents(
    values: Iterable[object], reader: DocumentReader, *, domain: str, name: str
) -> Iterator[Part]:
    """Yield the documents of an iterable of texts or of lists of token ids."""
    for number, value in enumerate(values):
        where = f"{name}: document {number}"
        if number == 0 and isinstance(value, str):
            _refuse_file_name(value, where)
        yield from reader.value(value, domain=domain, where=where)


def _refuse_file_name(text: str, where: str) -> None:
    """Stop where a list of paths was meant: as documents the names themselves would be scanned."""
    if len(text) < 1024 and text.isprintable() and text and Path(text).is_file():
        message = (
            f"{where} is the string {text!r}, the name of a file; a list of strings is a list of "
            "documents: pass the path alone, a glob, or pathlib.Path objects"
        )
        raise InputError(message)


def read_dataset(
    records: Iterable[object],
    reader: DocumentReader,
    *,
    domain: str,
    name: str,
) -> Iterator[Part]:
    """Yield the documents of an iterable of records, one each."""
    for number, record in enumerate(records):
        yield from reader.record(record, domain=domain, where=f"{name}: record {number}")
