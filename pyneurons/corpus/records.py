"""Records (a JSON line, a parquet row, a dataset's row) and which of their fields is the document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyneurons.corpus.bytestreams import REPLACEMENT, Errors, decode
from pyneurons.corpus.documents import Part, id_document
from pyneurons.errors import InputError

if TYPE_CHECKING:
    from pyneurons.corpus.tally import Tally

ID_FIELDS: Final = ("tokens", "input_ids")
"""Fields that hold token ids, where a record has no text field."""

_MISSING: Final = object()


def lookup(record: Mapping[str, object], path: str) -> object:
    """Return the field that ``path`` names: a key, or keys joined by dots; `_MISSING` if none."""
    if path in record:
        return record[path]
    value: object = record
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    return value


@dataclass(frozen=True)
class DocumentReader:
    """Turns one value or record into the parts of its document."""

    text_field: str
    domain_field: str | None
    errors: Errors
    vocab_size: int
    tally: Tally

    def columns(self, names: list[str]) -> list[str]:
        """Return those columns of a table that are read."""
        wanted = [self.text_field, *ID_FIELDS, *([self.domain_field] if self.domain_field else [])]
        roots = {path.split(".")[0] for path in wanted}
        return [name for name in names if name in roots or name in wanted]

    def record(
        self, record: object, *, domain: str, where: str, names: list[str] | None = None
    ) -> Iterator[Part]:
        """Yield the parts of a record's document.

        Raises
        ------
        InputError
            If the record is no object, or lacks the fields asked for (``names``: those to list).
        """
        if not isinstance(record, Mapping):
            message = f"{where}: found {_kind(record)}, expected an object with fields"
            raise InputError(message)
        if self.domain_field is not None:
            value = lookup(record, self.domain_field)
            if value is _MISSING:
                message = (
                    f"{where}: no field {self.domain_field!r} {_fields(names or record)}; "
                    "name the domain with domain_field="
                )
                raise InputError(message)
            if not isinstance(value, str) or not value:
                message = (
                    f"{where}: field {self.domain_field!r} is {_kind(value)}, "
                    "expected the name of a domain"
                )
                raise InputError(message)
            domain = value
        for name in (self.text_field, *ID_FIELDS):
            value = lookup(record, name)
            if value is not _MISSING:
                yield from self.value(value, domain=domain, where=f"{where}, field {name!r}")
                return
        message = (
            f"{where}: no field {self.text_field!r}, nor {' or '.join(ID_FIELDS)} "
            f"{_fields(names or record)}; name the text with text_field="
        )
        raise InputError(message)

    def value(self, value: object, *, domain: str, where: str) -> Iterator[Part]:
        """Yield the parts of a document given as text, as UTF-8 bytes or as token ids.

        Raises
        ------
        InputError
            If it is none of these, or its text is not valid Unicode and ``errors="strict"``.
        """
        if isinstance(value, str):
            yield Part(self._unicode(value, where), True, domain, where)
        elif isinstance(value, bytes):
            yield Part(self._decoded(value, where), True, domain, where)
        elif isinstance(value, (list, tuple)) or hasattr(value, "__array__"):
            yield from id_document(value, self.vocab_size, self.tally, domain=domain, where=where)
        else:
            message = f"{where}: found {_kind(value)}, expected text or a list of token ids"
            raise InputError(message)

    def _unicode(self, text: str, where: str) -> str:
        """Return text without lone surrogates, which JSON can write and UTF-8 cannot."""
        if text.isascii():
            return text
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if self.errors == "strict":
                message = (
                    f"{where}: character {error.start} is the lone surrogate "
                    f"U+{ord(text[error.start]):04X}, not valid Unicode; "
                    "mend the text or pass errors='replace'"
                )
                raise InputError(message) from error
            clean = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            self.tally.replaced_characters += clean.count(REPLACEMENT) - text.count(REPLACEMENT)
            return clean
        return text

    def _decoded(self, data: bytes, where: str) -> str:
        try:
            return decode(data, self.errors, self.tally)
        except UnicodeDecodeError as error:
            message = (
                f"{where}: byte {error.start} is 0x{data[error.start]:02x}, not valid UTF-8 "
                f"({error.reason}); mend the text or pass errors='replace'"
            )
            raise InputError(message) from error


def _fields(names: Iterable[object]) -> str:
    """List the fields that are there."""
    return f"(there are: {', '.join(map(str, names)) or 'none'})"


def _kind(value: object) -> str:
    """Name what was found, as JSON calls it where it has a name."""
    names = {type(None): "null", list: "a list", dict: "an object", str: "a string"}
    return names.get(type(value), f"a {type(value).__name__}")
